package resources

import (
	"maps"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"tinykube/api/validation"
)

func batchRows() []*Row {
	return group("batch", "v1",
		kind[batchv1.CronJob, batchv1.CronJobList](Row{
			ShortNames: names("cj"), Categories: all, Namespaced: true, Status: true,
			Strategy: lifecycle(true),
		}).prints(cronJobColumns, cells(cronJobCells)).warns(onChange(true, cronJobAdvice)).
			named(validation.CronJobName).
			validates(check(validation.CronJob), checkUpdate(validation.CronJobUpdate)),
		kind[batchv1.Job, batchv1.JobList](Row{
			Categories: all, Namespaced: true, Status: true,
			Strategy: lifecycle(true).
				afterCreate(on(generateSelector)).
				with(func(s *Strategy) { s.OrphanByDefault = true }),
			SelectableFields: selectable(func(j *batchv1.Job) fields.Set {
				return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
			}),
		}).prints(jobColumns, cells(jobCells)).warns(onChange(true, jobAdvice)).
			validates(check(validation.Job), checkUpdate(validation.JobUpdate)).
			validatesStatus(checkUpdate(validation.JobStatusUpdate)),
	)
}

// The labels by which a job finds its pods, under their old and new names.
var (
	jobNameLabels = []string{"job-name", batchv1.JobNameLabel}
	jobUIDLabels  = []string{"controller-uid", batchv1.ControllerUidLabel}
)

// generateSelector makes the selector from the job's own UID, so that no two
// jobs can ever claim each other's pods. A label the user set already is left
// for validation to refuse.
func generateSelector(job *batchv1.Job) {
	if manual := job.Spec.ManualSelector; manual == nil || !*manual {
		labels := &job.Spec.Template.Labels
		for _, name := range jobNameLabels {
			addLabel(labels, name, job.Name)
		}
		for _, name := range jobUIDLabels {
			addLabel(labels, name, string(job.UID))
		}
		if job.Spec.Selector == nil {
			job.Spec.Selector = &metav1.LabelSelector{}
		}
		addLabel(&job.Spec.Selector.MatchLabels, batchv1.ControllerUidLabel, string(job.UID))
	}
	if len(job.Labels) == 0 {
		job.Labels = maps.Clone(job.Spec.Template.Labels)
	}
}

func addLabel(labels *map[string]string, name, value string) {
	if *labels == nil {
		*labels = map[string]string{}
	}
	if _, has := (*labels)[name]; !has {
		(*labels)[name] = value
	}
}
