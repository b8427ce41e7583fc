// Package clusterroleaggregation fills ClusterRoles that are made of others:
// admin, edit and view gather the rules of every role with a certain label, so
// that who installs a new kind of object can say who may use it.
package clusterroleaggregation
