package delivery

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) initCmd() *cobra.Command {
	var file, devops string
	var interactive bool
	cmd := &cobra.Command{
		Use: "init", Short: "Make the file of settings", Args: cobra.NoArgs,
		Long: `Make the file of settings (~/.bedrock/config.yaml), out of another file or by answers to questions.

References to variables are kept as they are; with --file they must have values. An answer that is left
empty keeps what is there. What stood in the file before is kept beside it as config.yaml.old.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed("init", a.init(cmd.Context(), file, interactive, devops))
		},
	}
	x := cmd.Flags()
	x.StringVarP(&file, "file", "f", "", "`file` that is copied")
	x.BoolVarP(&interactive, "interactive", "i", false, "ask")
	x.StringVar(&devops, "azure-devops-url", "https://dev.azure.com", "`URL` at which the organisation is looked for, with --interactive")
	return cmd
}

func (a *app) init(ctx context.Context, file string, interactive bool, devops string) error {
	if (file == "") == !interactive {
		return errorf(codeValidation, "init-cmd-file-or-interactive", "give either --file or --interactive")
	}
	to := a.settingsFile()
	if interactive {
		return a.interview(ctx, to, devops)
	}
	raw, err := readSmall(file)
	if err != nil {
		return errorf(codeFile, "init-cmd-file-err", "%s cannot be read", file).because(err)
	}
	dot, err := readDotenv(".env")
	if err != nil {
		return err
	}
	// What cannot be used is not copied.
	s := &settings{file: file, raw: raw, values: map[string]string{}, groups: map[string]bool{}, lookup: func(n string) string { return first(a.Getenv(n), dot[n]) }}
	if err := s.parse(); err != nil {
		return err
	}
	return a.write(to, raw)
}

// write stores the settings and keeps what was there beside them.
func (a *app) write(file string, text []byte) error {
	old, err := readSmall(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && file != "" {
		return errorf(codeFile, "config-file-read-err", "the settings in %s cannot be read", file).because(err)
	}
	if err == nil && bytes.Equal(old, text) {
		a.note("%s is as it should be", file)
		return nil
	}
	if err == nil && len(bytes.TrimSpace(old)) > 0 {
		if err := save(file+".old", old); err != nil {
			return err
		}
	}
	if err := save(file, text); err != nil {
		return err
	}
	_, err = fmt.Fprintln(a.Stdout, clean(file))
	return err
}

// query is a question for a setting.
type query struct {
	path, text string
	secret     bool
	check      func(string) error
}

func checkPartition(v string) error {
	if strings.ContainsAny(v, `/\#?`) {
		return errorf(codeValidation, "init-cmd-partition-err", `a partition has none of / \ # ?`)
	}
	return nil
}

func checkServer(v string) error {
	if u, err := url.Parse(v); !reference.MatchString(v) && (err != nil || u.Host == "" || asURL(v) == "") {
		return errorf(codeValidation, "init-cmd-server-err", "a server is a URL such as https://waybill.example.org")
	}
	return nil
}

// interview asks for the settings, with what is there as what an empty answer keeps.
func (a *app) interview(ctx context.Context, file, devops string) error {
	raw, err := readSmall(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errorf(codeFile, "config-file-read-err", "the settings in %s cannot be read", file).because(err)
	}
	// References are neither resolved nor missed: they are shown and kept.
	kept := &settings{file: file, raw: raw, values: map[string]string{}, groups: map[string]bool{}, lookup: func(n string) string { return "${env:" + n + "}" }}
	if err := kept.parse(); err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(a.Stdin, maxSettings))
	var set []setting
	answer := func(q query) error {
		now := kept.get(q.path)
		shown := now
		if q.secret && now != "" && !reference.MatchString(now) {
			shown = "set"
		}
		for {
			fmt.Fprintf(a.Stderr, "%s [%s]: ", q.text, clean(shown))
			v, err := a.line(in, q.secret)
			if err != nil {
				fmt.Fprintln(a.Stderr)
				return errorf(codeFlow, "init-cmd-input-err", "there is no answer to %q", q.text).because(err)
			}
			if v == "" {
				return nil
			}
			if q.check != nil {
				if err := q.check(v); err != nil {
					a.note("%v", err)
					continue
				}
			}
			if v != now {
				set = append(set, setting{q.path, v})
			}
			kept.values[q.path] = v
			return nil
		}
	}
	for _, q := range []query{
		{path: "azure_devops.org", text: "Organisation of Azure DevOps"}, {path: "azure_devops.project", text: "Project of Azure DevOps"},
		{path: "azure_devops.access_token", text: "Personal access token of Azure DevOps", secret: true},
	} {
		if err := answer(q); err != nil {
			return err
		}
	}
	fmt.Fprint(a.Stderr, "Set up where deployments are kept? (y/N): ")
	more, err := a.line(in, false)
	if err != nil && !errors.Is(err, io.EOF) {
		return errorf(codeFlow, "init-cmd-input-err", "there is no answer").because(err)
	}
	if m := strings.ToLower(more); m == "y" || m == "yes" {
		for _, q := range []query{
			{path: "introspection.server", text: "URL of the server", check: checkServer},
			{path: "introspection.token", text: "API token", secret: true},
			{path: "introspection.azure.account_name", text: "Storage account to import from, if there is one"},
			{path: "introspection.azure.table_name", text: "Its table"},
			{path: "introspection.azure.partition_key", text: "Partition", check: checkPartition},
			{path: "introspection.azure.key", text: "Access key of the account", secret: true},
		} {
			if err := answer(q); err != nil {
				return err
			}
		}
	}
	text, err := edit(raw, set)
	if err != nil {
		return errorf(codeFile, "config-file-yaml-err", "%s cannot be changed", file).because(err)
	}
	if err := a.write(file, text); err != nil {
		return err
	}
	a.lookForProject(ctx, kept, devops)
	return nil
}

// line reads a line, without showing it when it is a secret typed on a terminal.
func (a *app) line(in *bufio.Reader, secret bool) (string, error) {
	if f, ok := a.Stdin.(*os.File); ok && secret && term.IsTerminal(int(f.Fd())) {
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(a.Stderr)
		return strings.TrimSpace(string(b)), err
	}
	text, err := in.ReadString('\n')
	if err != nil && (text == "" || !errors.Is(err, io.EOF)) {
		return "", err
	}
	return strings.TrimSpace(text), nil
}

// lookForProject tells whether the token opens the project. That it does not is no reason
// to lose the answers.
func (a *app) lookForProject(ctx context.Context, s *settings, base string) {
	resolve := func(path string) string {
		return reference.ReplaceAllStringFunc(s.get(path), func(ref string) string { return a.Getenv(reference.FindStringSubmatch(ref)[1]) })
	}
	org, project, token := resolve("azure_devops.org"), resolve("azure_devops.project"), resolve("azure_devops.access_token")
	if org == "" || project == "" || token == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(base, "/")+"/"+url.PathEscape(org)+"/_apis/projects/"+url.PathEscape(project)+"?api-version=7.1", nil)
	if err != nil {
		a.note("the project was not looked for: %v", err)
		return
	}
	r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(":"+token)))
	res, err := a.HTTP.Do(r)
	if err != nil {
		a.note("the project was not found: %s", strings.ReplaceAll(err.Error(), token, "***"))
		return
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		a.note("the project was not found: %s answers %s", base, res.Status)
		return
	}
	a.note("the token opens project %s", project)
}
