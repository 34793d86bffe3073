package waybill

import "context"

// Reloaded is what a reload of the project folder did.
type Reloaded struct {
	Applied  []Applied       `json:"applied"`  // pipelines with a new version
	Retired  []string        `json:"retired"`  // pipelines whose files are gone
	Settings []string        `json:"settings"` // settings that were taken up
	Restart  []string        `json:"restart"`  // settings that changed and need a restart
	Problems []SourceProblem `json:"problems"` // mistakes in files; what they held before stays
}

// Applied is a version that was taken up.
type Applied struct {
	Name    string `json:"name"`
	Version int    `json:"version"`
}

// SourceProblem is a mistake in a file of a project.
type SourceProblem struct {
	Msg    string `json:"msg"`
	File   string `json:"file,omitempty"`
	Line   int    `json:"line,omitempty"` // from 1
	Column int    `json:"column,omitempty"`
	Hint   string `json:"hint,omitempty"`
}

// Folder is the project folder of a server.
type Folder interface {
	// Reload takes up what has changed in the folder. KindConflict: there is none.
	Reload(ctx context.Context) (Reloaded, error)
}
