// Package cronjob starts a Job whenever a schedule is due.
//
//	CronJob, its Jobs, the time ──▶ plan: start the run of 12:15 | delete these Jobs | status ──▶ apply
//
// It keeps no timers that matter: from lastScheduleTime and the schedule it
// computes which run is the latest that is due, so a manager that was away for
// an hour starts one Job, not sixty, and one that wakes up twice starts none
// twice, because the run's time is in the Job's name.
//
// Start reading at plan.go.
package cronjob
