package sqlite

// WithSynchronous returns options that flush as the mode says.
func (o Options) WithSynchronous(mode string) Options {
	o.synchronous = mode
	return o
}

// WithMigrations returns options of a later version of the program.
func (o Options) WithMigrations(sql ...string) Options {
	o.later = sql
	return o
}
