package ancestry

import "context"

// CloneOptions say what is cloned.
type CloneOptions struct {
	Dir  string // for clones; the clone has a folder in it
	Repo string // address: https, or a path of this machine
	// Auth gives user and token, both may be empty; it is asked for each fetch.
	Auth func(ctx context.Context) (user, token string, err error)
	// Nameless: clusters that name no repository are at this one.
	Nameless bool
	// Fold brings addresses into the form in which they are compared.
	Fold func(string) string
}
