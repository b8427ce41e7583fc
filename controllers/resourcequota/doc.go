// Package resourcequota counts what a namespace uses of its ResourceQuotas.
//
// The API server counts up: it charges a quota in the same moment in which it
// lets an object in. Only something that looks at all objects can count down,
// when one is gone, has finished, or has shrunk: that is this controller. Both
// count by api/quota.
//
// It counts everything anew each time and writes if the sum differs. So it
// also repairs what anyone did to the status.
package resourcequota
