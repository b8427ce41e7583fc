package validation

import (
	"time"

	"tinykube/api/cron"
)

// CronSchedule says what is wrong with a schedule.
func CronSchedule(schedule string) error {
	_, err := cron.Parse(schedule, time.UTC)
	return err
}
