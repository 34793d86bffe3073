package docker

// NetworkName is the network that a runner makes.
func NetworkName(r *Runner) string { return r.networkName() }

// ContainerName is the name of a unit's container.
func ContainerName(r *Runner, unit string) string { return r.containerName(unit) }
