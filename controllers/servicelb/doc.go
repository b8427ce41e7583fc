// Package servicelb says why a Service of type LoadBalancer stays pending.
//
// Elsewhere a cloud makes a load balancer and writes its address into the
// status. There is no cloud here, so the address never comes; without a word a
// user waits for it. The Service works all the same, by its node ports.
package servicelb
