package sim

import (
	"encoding/json"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/runner"
)

// Settings are the keys of a step's "with". All are optional; without any, a
// unit ends at once as a success. Faults that happen a number of times are
// counted for fail_key.
type Settings struct {
	RunFor Duration `json:"run_for" doc:"how long the unit runs, such as '1.5s'"`
	Exit   int      `json:"exit" doc:"its exit code"`
	Signal string   `json:"signal" doc:"it ends by this signal instead, such as 'SIGKILL'"`
	Reason string   `json:"reason" doc:"reported with its end, such as 'oom_killed'"`
	Hang   bool     `json:"hang" doc:"it runs until it is killed, whatever is asked of it"`
	Vanish bool     `json:"vanish" doc:"after run_for it is gone and its end is unknown"`

	FailFirst   int      `json:"fail_first" doc:"so many units fail before one does as the rest says"`
	StartError  int      `json:"start_error" doc:"so many starts are refused as unavailable"`
	PullErrors  int      `json:"pull_errors" doc:"so many starts fail because an image cannot be had"`
	PullReason  string   `json:"pull_reason" doc:"why it cannot" enum:"pull_network,pull_quota,pull_auth,pull_not_found" default:"pull_network"`
	LoseAnswer  int      `json:"lose_answer" doc:"so many starts work but answer that they did not"`
	SlowStart   Duration `json:"slow_start" doc:"so long after the unit runs, its start is answered"`
	RemoveError int      `json:"remove_error" doc:"so many removals are refused as unavailable"`
	StartFail   bool     `json:"start_fail" doc:"the unit can never be started: its end says start_failed"`
	FailKey     string   `json:"fail_key" doc:"what the counts are kept for; the step of the run if not set"`

	LogText   []string `json:"log_text" doc:"lines printed first"`
	LogLines  int      `json:"log_lines" doc:"then so many numbered lines"`
	LogRate   float64  `json:"log_rate" doc:"of them a second; 0 means all at once"`
	LogBytes  int64    `json:"log_bytes" doc:"then one line of so many bytes"`
	LogBinary int      `json:"log_binary" doc:"then so many zero bytes"`

	Outputs   map[string]json.RawMessage `json:"outputs" doc:"written to the file WAYBILL_OUTPUT"`
	Callback  *Callback                  `json:"callback" doc:"sent to WAYBILL_CALLBACK"`
	Heartbeat Duration                   `json:"heartbeat" doc:"sent that often while it runs; 0 means never"`
}

// Callback is what a unit tells the server about itself.
type Callback struct {
	Variables  map[string]json.RawMessage `json:"variables" doc:"named results it reports"`
	Status     string                     `json:"status" doc:"'succeeded' if not set"`
	Error      string                     `json:"error" doc:"why it failed, for people"`
	After      Duration                   `json:"after" doc:"since the start, even if it has ended or was removed by then; if not set: just before its end"`
	Twice      bool                       `json:"twice" doc:"sent a second time"`
	WrongToken bool                       `json:"wrong_token" doc:"sent with a token that is not this attempt's"`
}

// Duration is a length of time, written as Go does: "90s", "1m30s".
type Duration = runner.Duration

// parse reads settings. Errors are of kind invalid and name the key.
func parse(with json.RawMessage, decode func(json.RawMessage, any) error) (Settings, error) {
	var s Settings
	if err := decode(with, &s); err != nil {
		return s, err
	}
	if s.LogLines < 0 || s.LogRate < 0 || s.LogBytes < 0 || s.LogBinary < 0 || s.FailFirst < 0 || s.StartError < 0 || s.LoseAnswer < 0 || s.RemoveError < 0 {
		return s, waybill.E(waybill.KindInvalid, "with: a number cannot be negative")
	}
	if s.Exit < 0 || s.Exit > 255 {
		return s, waybill.E(waybill.KindInvalid, "with: exit: %d is not between 0 and 255", s.Exit)
	}
	return s, nil
}
