// Package labs runs the course: each lab is a README that is executed.
//
//	README.md ──parse──▶ prose and blocks ──run──▶ terminals (bash) ──match──▶ ✓, or what differed and where
//	                                        │
//	                             needs: nothing · network · apiserver · hollow · machine · cluster
//
// A fenced block whose first word is `console` shows a terminal: lines with
// "$ " are typed, lines with "> " continue them, the others are what must come
// back. Words after `console` say what a picture of a terminal cannot:
//
//	console                 the commands run one after the other, each to its end
//	console fails           … and each must exit with an error
//	console within=30s      each is repeated until it prints this: for what is true eventually
//	console always          also if a block before did not hold: puts back what was taken apart
//	console terminal=watch  another terminal, where a command may go on running; later blocks of the same
//	                        terminal, without a command, are what it prints next; "^C" interrupts it
//
// In what must come back, "..." stands for any text, on a line of its own for
// any lines; blanks count as one. <<name>> is any word, which is remembered:
// from then on <<name>> is that word, in commands too.
//
// So nobody retypes output into a lab, and a lab cannot rot: what a reader
// sees is what the test saw. The chapters under docs/ quote their labs, and a
// test compares.
//
// A lab refuses to leave anything behind. It runs in a folder of its own with a
// HOME of its own; on a cluster it has a namespace of its own. A process that
// outlives its terminal is ended and fails the lab. Who wants to look around
// afterwards keeps it (leave.go), and gets two scripts: enter and leave.
//
// Start reading at runner.go. labs/exercise makes the holes that a reader
// fills in, labs/grade looks at what came of it.
package labs
