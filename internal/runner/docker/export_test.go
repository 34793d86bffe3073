package docker

// NetworkName is the network that a runner makes.
func NetworkName(r *Runner) string { return r.networkName() }
