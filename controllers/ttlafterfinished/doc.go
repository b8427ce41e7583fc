// Package ttlafterfinished deletes Jobs some time after they have ended, if
// they say when: spec.ttlSecondsAfterFinished.
package ttlafterfinished
