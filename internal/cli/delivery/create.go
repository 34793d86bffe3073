package delivery

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// create are the flags of create.
type create struct {
	name, key, table, partition                  string
	p1, imageTag, commit, service                string
	p2, configCommit, env                        string
	p3, pr, manifestCommit                       string
	repository, configRepository                 string
	digest, url, status, deployment, build, when string
	queued, started, finished                    string
	output                                       string
}

func (a *app) createCmd() *cobra.Command {
	var f create
	cmd := &cobra.Command{
		Use: "create", Aliases: []string{"c"}, Short: "Report a stage of a deployment", Args: cobra.NoArgs,
		Long: `Report a stage of a deployment. The first that fits decides what is reported:

  --p1                                an image was built: needs --image-tag, --commit-id and --service
  --p2                                the configuration of a ring names it: needs --image-tag, --hld-commit-id and --env
  --p3 with --hld-commit-id or --pr   manifests were made of that configuration
  --p3 with --manifest-commit-id      the manifests that a run made have this commit

The same report again changes nothing, so a job that is run again may report again. The server and
the token are those of --server and --token, of INTROSPECTION_SERVER and INTROSPECTION_TOKEN, or of
the settings. A URL as --name and an API token as --access-key are taken for them, too.`,
		Example: `  waybill deployment create --p1 100 --image-tag app:1 --commit-id c626394 --service app
  waybill deployment create --p2 101 --image-tag app:1 --hld-commit-id 706685f --env dev --pr 7
  waybill deployment create --p3 200 --hld-commit-id 706685f --pr 7
  waybill deployment create --p3 200 --manifest-commit-id b3a3345`,
		RunE: func(cmd *cobra.Command, _ []string) error { return failed("create", a.create(cmd, f)) },
	}
	x := cmd.Flags()
	x.StringVarP(&f.name, "name", "n", "", "URL of the server, where the variables of the older service are passed on")
	x.StringVarP(&f.key, "access-key", "k", "", "API token, where the variables of the older service are passed on")
	x.StringVarP(&f.table, "table-name", "t", "", "of the older service; has no meaning here")
	x.StringVarP(&f.partition, "partition-key", "p", "", "project that the deployment is of (INTROSPECTION_PARTITION_KEY)")
	x.StringVar(&f.p1, "p1", "", "run that built the image")
	x.StringVar(&f.imageTag, "image-tag", "", "tag of the image")
	x.StringVar(&f.commit, "commit-id", "", "commit of the source")
	x.StringVar(&f.service, "service", "", "name of the service")
	x.StringVar(&f.p2, "p2", "", "run that changed the configuration")
	x.StringVar(&f.configCommit, "hld-commit-id", "", "commit of the configuration")
	x.StringVar(&f.env, "env", "", "ring that the configuration is of")
	x.StringVar(&f.p3, "p3", "", "run that made the manifests")
	x.StringVar(&f.pr, "pr", "", "pull request of the configuration")
	x.StringVar(&f.manifestCommit, "manifest-commit-id", "", "commit of the manifests")
	x.StringVar(&f.repository, "repository", "", "URL of the repository: of the source with --p1, of the configuration with --p2, of the manifests with --p3")
	x.StringVar(&f.configRepository, "hld-repository", "", "URL of the repository of the configuration, with --p3")
	x.StringVar(&f.digest, "digest", "", "digest of the image")
	x.StringVar(&f.url, "run-url", "", "page of the run")
	x.StringVar(&f.status, "status", "", "queued, running, succeeded, failed, canceled or skipped")
	x.StringVar(&f.deployment, "deployment-id", "", "with --p2: the deployment that it is about, where that is known")
	x.StringVar(&f.build, "build-id", "", "with --p2: run of the build, where tags repeat")
	x.StringVar(&f.when, "time", "", "when it happened, as 2006-01-02T15:04:05Z (default: now)")
	x.StringVar(&f.queued, "queue-time", "", "when the run was queued; with --finish-time it gives the duration")
	x.StringVar(&f.started, "start-time", "", "when the run began")
	x.StringVar(&f.finished, "finish-time", "", "when the run ended")
	x.StringVarP(&f.output, "output", "o", "text", "text or json")
	return cmd
}

func (a *app) create(cmd *cobra.Command, f create) error {
	if err := oneOf("output", &f.output, "text", "json"); err != nil {
		return err
	}
	// A variable that is not set in a pipeline arrives as an empty value.
	var blank []string
	for _, name := range []string{"name", "access-key", "table-name", "partition-key"} {
		if x := cmd.Flags().Lookup(name); x.Changed && strings.TrimSpace(x.Value.String()) == "" {
			blank = append(blank, "--"+name)
		}
	}
	if len(blank) > 0 {
		return errorf(codeValidation, "introspect-create-cmd-missing-vals", "%s given without a value", strings.Join(blank, ", "))
	}
	s, err := a.load()
	if err != nil {
		return err
	}
	r, err := f.report()
	if err != nil {
		return err
	}
	r.Partition = s.partition(f.partition)
	if f.p1 != "" && f.p2 != "" {
		a.note("--p1 and --p2 were given: the build is reported, the configuration needs a report of its own")
	}
	if u := asURL(f.name); u != "" {
		s.lookup = before(s.lookup, "INTROSPECTION_SERVER", u)
	} else if f.name != "" {
		a.detail("account %s is not asked: deployments are kept by a server, see --server", f.name)
	}
	if t := asToken(f.key); t != "" {
		s.lookup = before(s.lookup, "INTROSPECTION_TOKEN", t)
	}
	c, err := a.connectToReport(s)
	if err != nil {
		return err
	}
	res, err := tell(cmd.Context(), c, r)
	if err != nil {
		return err
	}
	// A run that nobody told of has no deployment to change; the report waits for it.
	if r.Kind == waybill.ReportRun && res.Action == waybill.ActionUnlinked {
		return errorf(codeStorage, "introspect-create-cmd-no-generation",
			"no deployment has manifests of run %s; the report is kept until one has (event %s)", r.Run, res.Event)
	}
	if res.Warning != "" {
		a.note("%s", res.Warning)
	}
	if f.output == "json" {
		return printJSON(a.Stdout, res)
	}
	return a.told(res)
}

// before is a lookup that knows one more variable.
func before(lookup func(string) string, name, value string) func(string) string {
	return func(n string) string {
		if n == name {
			return value
		}
		return lookup(n)
	}
}

// told says in a line what became of a report.
func (a *app) told(res client.ReportResult) error {
	if len(res.Deployments) == 0 {
		_, err := fmt.Fprintln(a.Stdout, clean(string(res.Action)))
		return err
	}
	for _, d := range res.Deployments {
		words := []string{string(res.Action), d.ID}
		for _, w := range []string{d.DisplayService(), d.Ring, d.ImageTag} {
			if w != "" {
				words = append(words, w)
			}
		}
		if _, err := fmt.Fprintln(a.Stdout, clean(strings.Join(words, " "))); err != nil {
			return err
		}
	}
	return nil
}

// report is what the flags say happened.
func (f *create) report() (waybill.DeliveryReport, error) {
	var r waybill.DeliveryReport
	for _, v := range []*string{
		&f.p1, &f.imageTag, &f.commit, &f.service, &f.p2, &f.configCommit, &f.env, &f.p3, &f.pr, &f.manifestCommit, &f.repository, &f.configRepository,
		&f.digest, &f.url, &f.status, &f.deployment, &f.build, &f.when,
	} {
		*v = strings.TrimSpace(*v)
	}
	for _, x := range []struct {
		flag, text string
		to         *time.Time
	}{{"time", f.when, &r.Time}, {"queue-time", f.queued, &r.QueuedAt}, {"start-time", f.started, &r.StartedAt}, {"finish-time", f.finished, &r.FinishedAt}} {
		text := strings.TrimSpace(x.text)
		if text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return r, errorf(codeValidation, "introspect-create-cmd-time-err", "--%s %s is no time such as 2006-01-02T15:04:05Z", x.flag, text)
		}
		*x.to = t
	}
	r.Status = waybill.Outcome(strings.ToLower(f.status))
	if r.Status != "" && !slices.Contains([]waybill.Outcome{waybill.StatusQueued, waybill.StatusRunning, waybill.StatusSucceeded, waybill.StatusFailed, waybill.StatusCanceled, waybill.StatusSkipped}, r.Status) {
		return r, errorf(codeValidation, "introspect-create-cmd-status-err", "--status %s is not queued, running, succeeded, failed, canceled or skipped", f.status)
	}
	r.URL = f.url
	need := func(of string, pairs ...string) error {
		var missing []string
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i+1] == "" {
				missing = append(missing, pairs[i])
			}
		}
		if len(missing) == 0 {
			return nil
		}
		return errorf(codeValidation, "introspect-create-cmd-missing-vals", "%s needs %s", of, strings.Join(missing, ", "))
	}
	switch {
	case f.p1 != "":
		r.Kind, r.Run, r.ImageTag, r.ImageDigest, r.Commit, r.Service, r.SourceRepo = waybill.ReportBuild, f.p1, f.imageTag, f.digest, f.commit, f.service, f.repository
		return r, need("--p1", "--image-tag", f.imageTag, "--commit-id", f.commit, "--service", f.service)
	case f.p2 != "":
		r.Kind, r.Run, r.ImageTag, r.ImageDigest, r.Service = waybill.ReportConfig, f.p2, f.imageTag, f.digest, f.service
		r.Ring, r.ConfigCommit, r.ConfigRepo, r.PullRequest, r.Deployment, r.BuildRun = f.env, f.configCommit, f.repository, f.pr, f.deployment, f.build
		return r, need("--p2", "--hld-commit-id", f.configCommit, "--env", f.env, "--image-tag", f.imageTag)
	case f.p3 != "" && (f.configCommit != "" || f.pr != "" && f.manifestCommit == ""):
		r.Kind, r.Run, r.ConfigCommit, r.PullRequest, r.ConfigRepo = waybill.ReportManifest, f.p3, f.configCommit, f.pr, f.configRepository
		r.ManifestCommit, r.ManifestRepo = f.manifestCommit, f.repository
		return r, nil
	case f.p3 != "" && f.manifestCommit != "":
		r.Kind, r.Stage, r.Run, r.ManifestCommit, r.ManifestRepo = waybill.ReportRun, waybill.StageManifest, f.p3, f.manifestCommit, f.repository
		return r, nil
	}
	return r, errorf(codeValidation, "introspect-create-cmd-no-ops",
		"no operation: nothing was given that could be reported; give --p1, --p2, or --p3 with --hld-commit-id, --pr or --manifest-commit-id")
}

// tell reports and says in which of the codes it did not succeed.
func tell(ctx context.Context, c *client.Client, r waybill.DeliveryReport) (client.ReportResult, error) {
	res, err := c.ReportDelivery(ctx, r)
	switch client.KindOf(err) {
	case "":
		if err != nil {
			return res, errorf(codeFlow, "deployment-report-err", "the report was not sent").because(err)
		}
		return res, nil
	case waybill.KindInvalid, waybill.KindTooLarge, waybill.KindMalformed:
		return res, errorf(codeValidation, "deployment-report-refused", "the server does not take the report").because(err)
	case waybill.KindUnauthorized, waybill.KindForbidden:
		return res, errorf(codeStorage, "deployment-report-auth-err", "the server does not take reports from this token").because(err)
	}
	return res, errorf(codeStorage, "deployment-report-err", "the report was not kept").because(err)
}

// oneOf checks a word, whose case does not count.
func oneOf(flag string, word *string, words ...string) error {
	*word = strings.ToLower(strings.TrimSpace(*word))
	if !slices.Contains(words, *word) {
		return errorf(codeValidation, "deployment-flag-err", "--%s %s is not one of %s", flag, *word, strings.Join(words, ", "))
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
