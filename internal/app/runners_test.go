package app

import (
	"os"
	"strings"
	"testing"
)

// Definitions are checked where no runner is: what a step says counts, and one that names
// no runner is not taken for one of another platform.
func TestStepsOfEveryPlatformAreChecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/pipelines", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"any":        "name: any\nsteps: [{name: a, image: x, with: {pids: 5, args: [y]}}]\n",
		"files":      "name: files\nsteps: [{name: a, runner: kubernetes, image: x, run: [y], outputs: {report: {file: report.csv}}}]\n",
		"kubernetes": "name: kubernetes\nsteps: [{name: a, runner: kubernetes, image: x, run: [y]}]\n",
		"aci":        "name: aci\nsteps: [{name: a, runner: aci, image: x, run: [y]}]\n",
	} {
		if err := os.WriteFile(dir+"/pipelines/"+name+".yaml", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := validate(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].Msg, "no output files come back from the runner kubernetes") {
		t.Errorf("problems = %+v", problems)
	}
}
