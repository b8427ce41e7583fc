package grade

const (
	publishFile = "csi/hostpath/node_publish.go"
	matchFile   = "controllers/volumebinder/match.go"
	attachFile  = "controllers/attachdetach/plan.go"
)

// storageMutants are those of the labs about volumes.
var storageMutants = []mutant{
	{"22", "never finds any", matchFile, "case best == nil || better(volume, best):", "case best != nil && better(volume, best):", "a volume that fits"},
	{"22", "takes the first that fits", matchFile, "case best == nil || better(volume, best):", "case best == nil:", "the smallest"},
	{"22", "takes the last that fits", matchFile, "case best == nil || better(volume, best):", "default:", "the smallest"},
	{"22", "does not look at the size", matchFile, "!claims.Large(volume, claim), ", "", "the smallest"},
	{"22", "does not ask what it can do", matchFile, "!claims.Modes(volume, claim),\n", "\n", "no more than needs be"},
	{"22", "looks at the size only", matchFile, "case best == nil || better(volume, best):",
		"case best == nil || volume.Spec.Capacity.Storage().Cmp(*best.Spec.Capacity.Storage()) < 0:", "no more than needs be"},
	{"22", "does not ask for the class", matchFile, "claims.VolumeClass(volume) != claims.Class(claim), ", "", "of the kind"},
	{"22", "takes a device for a file system", matchFile, "claims.Mode(volume.Spec.VolumeMode) != claims.Mode(claim.Spec.VolumeMode), ", "", "of the kind"},
	{"22", "forgets the labels", matchFile, "!claims.Selected(volume, claim):\n", "false:\n", "of the kind"},
	{"22", "takes what is promised to others", matchFile, "case volume.Spec.ClaimRef != nil, waits", "case waits", "somebody else's"},
	{"22", "takes what is being deleted", matchFile, "case volume.DeletionTimestamp != nil, ", "case ", "somebody else's"},
	{"22", "waits until what was reserved is the best", matchFile, "case claims.Promised(volume, claim):\n\t\t\treturn volume\n\t\tcase volume.Spec.ClaimRef != nil, waits",
		"case volume.Spec.ClaimRef != nil && !claims.Promised(volume, claim), waits", "reserved for the claim"},
	{"22", "does not wait", matchFile, "case volume.Spec.ClaimRef != nil, waits, ", "case volume.Spec.ClaimRef != nil, ", "waits for a pod"},
	{"22", "waits with what was reserved, too", matchFile, "case claims.Promised(volume, claim):", "case claims.Promised(volume, claim) && !waits:", "waits for a pod"},

	{"22", "attaches nothing", attachFile, "p.attach = append(p.attach, attachment(v.name, u.volume))", "", "attached to its node"},
	{"22", "attaches to another name", attachFile, "attachment(v.name, u.volume))", "attachment(u.volume.Name, u.volume))", "attached to its node"},
	{"22", "believes that it is attached", attachFile, "case a.DeletionTimestamp == nil && a.Status.Attached:", "case a.DeletionTimestamp == nil:", "told what is attached"},
	{"22", "tells only of what is new", attachFile, "case a.DeletionTimestamp == nil && a.Status.Attached:",
		"case a.DeletionTimestamp == nil && a.Status.Attached && (v.node == nil || len(v.reported(a)) == 0):", "told what is attached"},
	{"22", "never detaches", attachFile, "p.detach = append(p.detach, a)", "", "is detached"},
	{"22", "detaches what is used", attachFile, "slices.ContainsFunc(v.uses, func(u use) bool { return u.volume.Name == name }) || a.DeletionTimestamp != nil {", "a.DeletionTimestamp != nil || name == \"\" {", "is detached"},
	{"22", "does not wait for the kubelet", attachFile, "wait := v.mounted(a); wait > 0", "wait := v.mounted(a); wait < 0", "in use"},
	{"22", "waits, and says that it is detached", attachFile, "p.attached = append(p.attached, v.reported(a)...)", "", "in use"},
	{"22", "asks the kubelet only", attachFile, "wait := v.mounted(a); wait > 0",
		"wait := time.Minute; v.node != nil && slices.ContainsFunc(v.node.Status.VolumesInUse, func(name corev1.UniqueVolumeName) bool { return is(name, a) })", "out of service"},
	{"22", "does not look elsewhere", attachFile, "find(v.elsewhere, u.volume.Name) != nil:", "false:", "what one node has"},
	{"22", "shares nothing", attachFile, "a == nil && !shared(u.volume) && find", "a == nil && find", "may be shared"},
	{"22", "takes what goes for what is there", attachFile, "case a.DeletionTimestamp == nil && a.Status.Attached:", "case a.Status.Attached:", "being detached"},
	{"22", "detaches it again and again", attachFile, "== name }) || a.DeletionTimestamp != nil {", "== name }) {", "being detached"},

	{"23", "says that it is done when there is nothing", publishFile, "case errors.Is(err, fs.ErrNotExist):\n\t\treturn false, nil\n\tcase err != nil:\n\t\treturn false, err\n\tcase info",
		"case errors.Is(err, fs.ErrNotExist):\n\t\treturn true, nil\n\tcase err != nil:\n\t\treturn false, err\n\tcase info", "shown to its pod"},
	{"23", "mounts again every time", publishFile, "\t\treturn same, err\n", "\t\treturn false, err\n", "done once"},
	{"23", "remembers, until it is killed", publishFile, "mounted, err := mountedAt(target)",
		"mounted, err := os.Getenv(target) != \"\", error(nil)\n\tos.Setenv(target, \"mounted\")", "was killed"},
	{"23", "believes the record", publishFile, "\tinfo, err := os.Lstat(target)\n\tswitch {\n\tcase errors.Is(err, fs.ErrNotExist):\n\t\treturn false, nil",
		"\tif _, ok := volume.Published[target]; ok {\n\t\treturn true, nil\n\t}\n\tinfo, err := os.Lstat(target)\n\tswitch {\n\tcase errors.Is(err, fs.ErrNotExist):\n\t\treturn false, nil", "a record is not a mount"},
	{"23", "is afraid of what is there", publishFile, "return false, checkEmpty(target, info, volume.Block)",
		"return false, status.Errorf(codes.FailedPrecondition, \"%s is there\", info.Name())", "left empty"},
	{"23", "does not ask how", publishFile, "ok && recorded != publication", "ok && false && recorded != publication", "but read-only"},
	{"23", "follows a link", publishFile, "info, err := os.Lstat(target)\n\tswitch {\n\tcase errors.Is(err, fs.ErrNotExist):\n\t\treturn false, nil\n\tcase err != nil:",
		"info, err := os.Stat(target)\n\tswitch {\n\tcase errors.Is(err, fs.ErrNotExist):\n\t\treturn false, nil\n\tcase err != nil:", "link"},
	{"23", "takes any mount for its own", publishFile, "\t\treturn same, err\n", "\t\t_ = same\n\t\treturn true, nil\n", "somebody else"},
	{"23", "hides what is there", publishFile, "return false, checkEmpty(target, info, volume.Block)", "return false, nil", "hides nothing"},
	{"23", "does not look what kind of thing is there", publishFile, "return false, checkEmpty(target, info, volume.Block)",
		"if info.Mode().IsRegular() {\n\t\treturn false, nil\n\t}\n\treturn false, checkEmpty(target, info, volume.Block)", "is no directory"},
}
