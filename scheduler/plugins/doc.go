// Package plugins holds the scheduler's opinions: one file per plugin, one row
// per plugin in Rows. Names, defaults, weights and sentences are upstream's.
//
//	plugin                           decides
//	SchedulingGates                  PreEnqueue: is somebody holding the pod back?
//	PrioritySort                     QueueSort: higher priority, then longer waiting
//	NodeUnschedulable, NodeName,     Filter
//	NodePorts
//	TaintToleration, NodeAffinity    Filter hard demands, Score soft ones
//	NodeResourcesFit                 Filter by free resources, Score by a strategy
//	PodTopologySpread                Filter and Score by how evenly like pods lie
//	InterPodAffinity                 Filter and Score by which pods are neighbours
//	NodeResourcesBalancedAllocation  Score: does the pod even out the node's use?
//	ImageLocality                    Score: is the image there already?
//	DefaultBinder                    Bind: POST pods/binding
//
// A new plugin is a file and a row; nothing else changes. Start reading at
// fit.go, which has all a plugin can have, then score.go for its formulas.
package plugins
