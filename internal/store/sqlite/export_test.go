package sqlite

// WithSynchronous returns options that flush as the mode says.
func (o Options) WithSynchronous(mode string) Options {
	o.synchronous = mode
	return o
}
