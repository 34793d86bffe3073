package waybill

import "encoding/json"

// RunPlan is a run as it would be: what a start would do, without doing it. What is
// known only while the run goes on stays as it is written, as ${{ … }} or
// ${secret:NAME}.
type RunPlan struct {
	Pipeline string        `json:"pipeline"`
	Version  int           `json:"version"`
	Params   Vars          `json:"params"`
	Vars     Vars          `json:"vars"` // at the beginning
	Slots    []Slot        `json:"slots,omitempty"`
	Steps    []PlannedStep `json:"steps"` // in the order in which they may begin
}

// PlannedStep is a step of a plan.
type PlannedStep struct {
	Name     string            `json:"name"`
	Group    string            `json:"group,omitempty"` // "on_failure" or "always"
	Level    int               `json:"level"`           // steps of one level may run beside each other
	Runner   string            `json:"runner"`
	Needs    []string          `json:"needs,omitempty"`
	If       string            `json:"if,omitempty"` // the condition as it is written
	Runs     string            `json:"runs"`         // "yes", "no" or "unknown"
	Args     []string          `json:"args,omitempty"`
	Env      map[string]string `json:"env,omitempty"` // what the step itself sets
	With     json.RawMessage   `json:"with,omitempty"`
	Inputs   map[string]any    `json:"inputs,omitempty"`
	Timeout  string            `json:"timeout"`
	Retries  int               `json:"retries,omitempty"` // after the first attempt
	Cells    []PlannedCell     `json:"cells,omitempty"`
	CellsOf  string            `json:"cells_of,omitempty"` // of a matrix that is not known yet: "unknown"
	Parallel int               `json:"max_parallel,omitempty"`
	Unknown  []string          `json:"unknown,omitempty"` // expressions whose values are not known yet
	Problem  string            `json:"problem,omitempty"` // why it would fail
}

// PlannedCell is a cell of a matrix.
type PlannedCell struct {
	Index  int               `json:"index"`
	Values Vars              `json:"values"`
	Args   []string          `json:"args,omitempty"`
	Env    map[string]string `json:"env,omitempty"`
	With   json.RawMessage   `json:"with,omitempty"`
}

// The words of PlannedStep.Runs.
const (
	PlannedYes     = "yes"
	PlannedNo      = "no"
	PlannedUnknown = "unknown"
)
