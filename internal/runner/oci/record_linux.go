package oci

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/waybill-run/waybill/internal/runner"
)

// record is what is kept of a unit, and nothing that is secret.
type record struct {
	Unit    string            `json:"unit"`
	Image   string            `json:"image"`
	Layers  []string          `json:"layers"`
	ID      string            `json:"id"`  // of the container
	Dir     string            `json:"dir"` // its home on this machine
	Network string            `json:"network,omitempty"`
	IP      string            `json:"ip,omitempty"`
	Flat    bool              `json:"flat,omitempty"` // its root is a copy
	Cgroup  string            `json:"cgroup,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	At      time.Time         `json:"at"`
	Begun   bool              `json:"begun,omitempty"` // the inner runner may know it
	Exit    *runner.Exit      `json:"exit,omitempty"`  // how it ended, once that was asked for
}

// Files of a unit's folder.
const (
	recordFile = "unit.json"
	upperDir   = "upper"
	workDir    = "work" // the kernel's
	flatDir    = "root" // where there are no overlays
	statusFile = "status"
	pidFile    = "pid"
	runtimeLog = "runtime.log"
)

// What is in the folder in memory besides one for each unit.
const (
	initFile = "init"  // the first process of containers
	stateDir = "state" // the runtime's own
)

func (r *Runner) unitDir(unit string, parts ...string) string {
	return filepath.Join(append([]string{r.dir, "units", unit}, parts...)...)
}

// load reads the record of a unit; nil when there is none.
func (r *Runner) load(unit string) (*record, error) {
	b, err := os.ReadFile(r.unitDir(unit, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rec := &record{}
	if err := json.Unmarshal(b, rec); err != nil {
		return nil, err
	}
	return rec, nil
}

// save writes the record of a unit, whole or not at all. It is not synced: what it speaks
// of does not outlive the machine either, but for folders, which are found without it.
func (r *Runner) save(rec *record) error {
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp := r.unitDir(rec.Unit, recordFile+".new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, r.unitDir(rec.Unit, recordFile))
}
