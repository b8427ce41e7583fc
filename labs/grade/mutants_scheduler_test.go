package grade

const scoreFile = "scheduler/plugins/score.go"

// schedulerMutants are those of the lab about the scheduler.
var schedulerMutants = []mutant{
	{"07", "takes what is taken for what is left", scoreFile,
		"percent(s.allocatable-s.requested, s.allocatable)", "percent(s.requested, s.allocatable)", "the empty one"},
	{"07", "does not count the newcomer", scoreFile,
		"percent(s.allocatable-s.requested, s.allocatable)", "percent(s.allocatable-s.before, s.allocatable)", "is 62"},
	{"07", "weighs all alike", scoreFile,
		"func leastAllocated(shares []share) int64 {", "func leastAllocated(shares []share) int64 {\n\tfor i := range shares {\n\t\tshares[i].weight = 1\n\t}", "it is 68"},
	{"07", "goes below nothing", scoreFile,
		"\t\tif s.requested > s.allocatable {\n\t\t\treturn 0\n\t\t}\n\t\treturn percent(s.allocatable-s.requested, s.allocatable)", "\t\treturn (s.allocatable - s.requested) * 100 / s.allocatable", "and not as less"},
	{"07", "packs the other way round", scoreFile,
		"return percent(s.requested, s.allocatable) })", "return 100 - percent(s.requested, s.allocatable) })", "the full one"},
	{"07", "packs without the newcomer", scoreFile,
		"return percent(s.requested, s.allocatable) })", "return percent(s.before, s.allocatable) })", "is 37"},
	{"07", "packs with all alike", scoreFile,
		"func mostAllocated(shares []share) int64 {", "func mostAllocated(shares []share) int64 {\n\tfor i := range shares {\n\t\tshares[i].weight = 1\n\t}", "it is 31"},
	{"07", "goes beyond full", scoreFile,
		"return percent(s.requested, s.allocatable) })", "return s.requested * 100 / s.allocatable })", "and not as more"},
}
