package delivery

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"golang.org/x/crypto/nacl/box"
)

// variables are those that a pipeline is given, as the older tool's files list them.
type variables struct {
	Name        string              `yaml:"name"`
	Description string              `yaml:"description"`
	Type        string              `yaml:"type"` // Vsts or AzureKeyVault
	Variables   map[string]variable `yaml:"variables"`
	Vault       struct {
		Name     string `yaml:"name"`
		Endpoint struct {
			Name string `yaml:"name"`
		} `yaml:"service_endpoint"`
	} `yaml:"key_vault_provider"`
}

type variable struct {
	Value  string `yaml:"-"` // a number or a truth value is text here
	Any    any    `yaml:"value"`
	Secret bool   `yaml:"isSecret"`
}

// ciVars are the flags of ci-vars create.
type ciVars struct {
	provider, file, org, project, token, url string
}

func (a *app) ciVarsCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ci-vars", Aliases: []string{"variable-group"}, Short: "Give pipelines the variables that reports need", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed("ci-vars", errorf(codeValidation, "ci-vars-cmd-no-ops", "ci-vars needs a command, see: %s --help", cmd.CommandPath()))
		},
	}
	cmd.AddCommand(a.ciVarsCreateCmd())
	return cmd
}

func (a *app) ciVarsCreateCmd() *cobra.Command {
	var f ciVars
	var output string
	cmd := &cobra.Command{
		Use: "create", Aliases: []string{"c"}, Short: "Make the variables at a provider of pipelines", Args: cobra.NoArgs,
		Long: `Make the variables at a provider of pipelines: a group of variables in Azure DevOps that all pipelines may
use, variables and secrets of a repository on GitHub, variables of a project on GitLab.

They come out of a file (name, description, type: Vsts, variables: {NAME: {value, isSecret}}), in which
${env:NAME} stands for a variable. Without one they are server, token and partition of the settings: under
the names INTROSPECTION_SERVER, INTROSPECTION_TOKEN and INTROSPECTION_PARTITION_KEY, and under those that
generated pipelines look for: INTROSPECTION_ACCOUNT_NAME, INTROSPECTION_ACCOUNT_KEY and
INTROSPECTION_TABLE_NAME.`,
		Example: `  waybill deployment ci-vars create -f variables.yaml -o harbour -d crane
  waybill deployment ci-vars create --provider github -d harbour/crane
  waybill deployment ci-vars create --provider gitlab -d harbour/crane --url https://gitlab.example.org`,
		RunE: func(cmd *cobra.Command, _ []string) error { return failed("ci-vars", a.ciVars(cmd.Context(), f)) },
	}
	x := cmd.Flags()
	x.StringVar(&f.provider, "provider", "azdo", "azdo, github or gitlab")
	x.StringVarP(&f.file, "file", "f", "", "`file` with the variables")
	x.StringVarP(&f.org, "org-name", "o", "", "with azdo: organisation (azure_devops.org)")
	x.StringVarP(&f.project, "project", "d", "", "project of Azure DevOps (azure_devops.project) or GitLab, or OWNER/REPOSITORY of GitHub")
	x.StringVarP(&f.token, "personal-access-token", "a", "", "token of the provider (azure_devops.access_token; GITHUB_TOKEN; GITLAB_TOKEN)")
	x.StringVar(&f.url, "url", "", "`URL` of the provider (default: that of its public service)")
	// The short name of the output's form is taken here by the older tool's flag.
	x.StringVar(&output, "output", "text", "text")
	x.Lookup("output").Hidden = true
	return cmd
}

// secretName is a name that all three providers take.
var secretName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func (a *app) ciVars(ctx context.Context, f ciVars) error {
	if err := oneOf("provider", &f.provider, "azdo", "github", "gitlab"); err != nil {
		return err
	}
	s, err := a.load()
	if err != nil {
		return err
	}
	v, err := a.variables(s, f.file)
	if err != nil {
		return err
	}
	if err := v.check(f.provider); err != nil {
		return err
	}
	p := &provider{http: a.HTTP, base: strings.TrimSuffix(f.url, "/")}
	var missing []string
	need := func(name, value string) string {
		if value == "" {
			missing = append(missing, name)
		}
		return value
	}
	switch f.provider {
	case "azdo":
		p.base = first(p.base, "https://dev.azure.com")
		org, project := need("--org-name", first(f.org, s.get("azure_devops.org"))), need("--project", first(f.project, s.get("azure_devops.project")))
		p.token = need("--personal-access-token", first(f.token, s.env("AZDO_PERSONAL_ACCESS_TOKEN"), s.get("azure_devops.access_token")))
		p.header = http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(":"+p.token))}}
		if len(missing) == 0 {
			err = p.azdo(ctx, org, project, v)
		}
	case "github":
		p.base = first(p.base, "https://api.github.com")
		project := need("--project", f.project)
		p.token = need("--personal-access-token", first(f.token, s.env("GITHUB_TOKEN")))
		p.header = http.Header{"Authorization": {"Bearer " + p.token}, "Accept": {"application/vnd.github+json"}, "X-Github-Api-Version": {"2022-11-28"}}
		if len(missing) == 0 {
			err = p.github(ctx, project, v)
		}
	case "gitlab":
		p.base = first(p.base, "https://gitlab.com")
		project := need("--project", f.project)
		p.token = need("--personal-access-token", first(f.token, s.env("GITLAB_TOKEN")))
		p.header = http.Header{"Private-Token": {p.token}}
		if len(missing) == 0 {
			err = p.gitlab(ctx, project, v)
		}
	}
	if len(missing) > 0 {
		return errorf(codeValidation, "ci-vars-cmd-missing-vals", "ci-vars create --provider %s needs %s", f.provider, strings.Join(missing, ", "))
	}
	if err != nil {
		return errorf(codeFlow, "ci-vars-cmd-create-err", "the variables were not made, or not all of them").because(err)
	}
	for _, name := range v.names() {
		kind := "variable"
		if v.Variables[name].Secret {
			kind = "secret"
		}
		if _, err := fmt.Fprintf(a.Stdout, "%s %s\n", kind, clean(name)); err != nil {
			return err
		}
	}
	return nil
}

// variables reads the file, or makes them of the settings.
func (a *app) variables(s *settings, file string) (*variables, error) {
	if file == "" {
		server, token, partition := first(a.Server(), s.server()), first(a.Token(), s.reportToken()), first(s.partition(""), "default")
		if server == "" || token == "" {
			return nil, errorf(codeValidation, "ci-vars-cmd-missing-vals", "the settings have no server and token for pipelines; make them with deployment onboard, or give --file")
		}
		if u, err := url.Parse(server); err == nil && loopback(u.Hostname()) {
			a.note("%s is an address of this machine: pipelines that run elsewhere do not reach it", server)
		}
		return &variables{Name: "introspection", Description: "Where deployments are reported", Type: "Vsts", Variables: map[string]variable{
			"INTROSPECTION_SERVER": {Value: server}, "INTROSPECTION_TOKEN": {Value: token, Secret: true}, "INTROSPECTION_PARTITION_KEY": {Value: partition},
			"INTROSPECTION_ACCOUNT_NAME": {Value: server}, "INTROSPECTION_ACCOUNT_KEY": {Value: token, Secret: true}, "INTROSPECTION_TABLE_NAME": {Value: "deployments"},
		}}, nil
	}
	raw, err := readSmall(file)
	if err != nil {
		return nil, errorf(codeFile, "ci-vars-cmd-file-err", "%s cannot be read", file).because(err)
	}
	// References are looked for in values only, with their place.
	x := &settings{file: file, raw: raw, values: map[string]string{}, groups: map[string]bool{}, lookup: s.lookup}
	if err := x.parse(); err != nil {
		return nil, err
	}
	var v variables
	if err := yaml.UnmarshalWithOptions(raw, &v, yaml.Strict()); err != nil {
		return nil, errorf(codeFile, "ci-vars-cmd-file-err", "%s does not list variables", file).because(errors.New(yaml.FormatError(err, false, false)))
	}
	v.Name, v.Description, v.Type = x.get("name"), x.get("description"), x.get("type")
	v.Vault.Name, v.Vault.Endpoint.Name = x.get("key_vault_provider.name"), x.get("key_vault_provider.service_endpoint.name")
	for name, one := range v.Variables {
		one.Value = x.values["variables."+name+".value"]
		v.Variables[name] = one
	}
	return &v, nil
}

func (v *variables) names() []string {
	var out []string
	for name := range v.Variables {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// check says what is wrong, before anybody is asked for anything.
func (v *variables) check(provider string) error {
	fail := func(format string, args ...any) error {
		return errorf(codeFlow, "ci-vars-cmd-create-err", "no variables were made").because(errorf(codeVariables, "variable-group-err", format, args...))
	}
	switch {
	case v.Type != "Vsts" && v.Type != "AzureKeyVault":
		return fail("type %q is not Vsts or AzureKeyVault", v.Type)
	case v.Type == "AzureKeyVault" && provider != "azdo":
		return fail("variables of a key vault are known to Azure DevOps only")
	case v.Type == "AzureKeyVault" && (v.Vault.Name == "" || v.Vault.Endpoint.Name == ""):
		return fail("variables of a key vault need key_vault_provider with name and service_endpoint.name")
	case provider == "azdo" && v.Name == "":
		return fail("a group of variables needs a name")
	case len(v.Variables) == 0:
		return fail("there are no variables")
	}
	for _, name := range v.names() {
		if provider != "azdo" && (len(name) > 255 || !secretName.MatchString(name)) || name == "" {
			return fail("%q is no name of a variable", name)
		}
	}
	return nil
}

// provider is the API of a provider of pipelines.
type provider struct {
	http   *http.Client
	base   string
	token  string
	header http.Header
}

// call sends a request. An answer that is neither 2xx nor one of others is an error without
// the token and without what was sent.
func (p *provider) call(ctx context.Context, method, path string, body, out any, others ...int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		send = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, p.base+path, send)
	if err != nil {
		return 0, errorf(codeVariables, "provider-url-err", "%s is no URL", p.base)
	}
	r.Header = p.header.Clone()
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	res, err := p.http.Do(r)
	if err != nil {
		return 0, errorf(codeVariables, "provider-unreachable", "%s cannot be asked", p.base).because(errors.New(p.hide(err.Error())))
	}
	defer res.Body.Close()
	status := res.StatusCode
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return 0, errorf(codeVariables, "provider-unreachable", "the answer of %s broke off", p.base).because(err)
	}
	if slices.Contains(others, status) {
		return status, nil
	}
	// Azure DevOps answers 203 with its login page to a token that is not valid.
	if status < 200 || status > 299 || status == http.StatusNonAuthoritativeInfo {
		var said struct{ Message any }
		why := ""
		if json.Unmarshal(text, &said) == nil && said.Message != nil {
			why = ": " + p.hide(fmt.Sprint(said.Message))
		}
		return status, errorf(codeVariables, "provider-refused", "%s %s was answered with %s%s", method, path, res.Status, why)
	}
	if out != nil {
		if err := json.Unmarshal(text, out); err != nil {
			return status, errorf(codeVariables, "provider-answer-err", "the answer to %s %s cannot be read", method, path).because(err)
		}
	}
	return status, nil
}

func (p *provider) hide(text string) string {
	if p.token == "" {
		return text
	}
	return strings.ReplaceAll(text, p.token, "***")
}

// azdo makes a group of variables and lets all pipelines use it.
func (p *provider) azdo(ctx context.Context, org, project string, v *variables) error {
	type one struct {
		Value    string `json:"value,omitempty"`
		IsSecret bool   `json:"isSecret,omitempty"`
		Enabled  bool   `json:"enabled,omitempty"`
	}
	root := "/" + url.PathEscape(org) + "/" + url.PathEscape(project) + "/_apis/"
	group := map[string]any{
		"name": v.Name, "description": v.Description, "type": v.Type,
		"variableGroupProjectReferences": []any{map[string]any{"name": v.Name, "description": v.Description, "projectReference": map[string]string{"name": project}}},
	}
	list := map[string]one{}
	for name, x := range v.Variables {
		list[name] = one{Value: x.Value, IsSecret: x.Secret}
	}
	if v.Type == "AzureKeyVault" {
		var found struct {
			Value []struct {
				ID string `json:"id"`
			} `json:"value"`
		}
		if _, err := p.call(ctx, http.MethodGet, root+"serviceendpoint/endpoints?endpointNames="+url.QueryEscape(v.Vault.Endpoint.Name)+"&api-version=7.1", nil, &found); err != nil {
			return err
		}
		if len(found.Value) != 1 {
			return errorf(codeVariables, "service-endpoint-err", "project %s has %d service endpoints called %s", project, len(found.Value), v.Vault.Endpoint.Name)
		}
		group["providerData"] = map[string]string{"serviceEndpointId": found.Value[0].ID, "vault": v.Vault.Name}
		for name := range list {
			list[name] = one{Enabled: true, IsSecret: true}
		}
	}
	group["variables"] = list
	var made struct {
		ID int `json:"id"`
	}
	if _, err := p.call(ctx, http.MethodPost, "/"+url.PathEscape(org)+"/_apis/distributedtask/variablegroups?api-version=7.1", group, &made); err != nil {
		return err
	}
	_, err := p.call(ctx, http.MethodPatch, root+"pipelines/pipelinepermissions/variablegroup/"+strconv.Itoa(made.ID)+"?api-version=7.1-preview.1",
		map[string]any{"allPipelines": map[string]bool{"authorized": true}}, nil)
	return err
}

// github makes variables and secrets of a repository, or gives those that are there their
// values.
func (p *provider) github(ctx context.Context, project string, v *variables) error {
	owner, repo, ok := strings.Cut(project, "/")
	if !ok || owner == "" || repo == "" || strings.Contains(repo, "/") {
		return errorf(codeVariables, "project-err", "--project %s is not OWNER/REPOSITORY", project)
	}
	root := "/repos/" + url.PathEscape(owner) + "/" + url.PathEscape(repo) + "/actions/"
	var key struct {
		ID  string `json:"key_id"`
		Key string `json:"key"`
	}
	for _, name := range v.names() {
		x := v.Variables[name]
		if !x.Secret {
			status, err := p.call(ctx, http.MethodPost, root+"variables", map[string]string{"name": name, "value": x.Value}, nil, http.StatusConflict)
			if err == nil && status == http.StatusConflict {
				_, err = p.call(ctx, http.MethodPatch, root+"variables/"+name, map[string]string{"name": name, "value": x.Value}, nil)
			}
			if err != nil {
				return err
			}
			continue
		}
		if key.ID == "" {
			if _, err := p.call(ctx, http.MethodGet, root+"secrets/public-key", nil, &key); err != nil {
				return err
			}
		}
		sealed, err := seal(key.Key, x.Value)
		if err != nil {
			return err
		}
		if _, err := p.call(ctx, http.MethodPut, root+"secrets/"+name, map[string]string{"encrypted_value": sealed, "key_id": key.ID}, nil); err != nil {
			return err
		}
	}
	return nil
}

// seal encrypts a secret for the key of a repository.
func seal(key, value string) (string, error) {
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(b) != 32 {
		return "", errorf(codeVariables, "provider-answer-err", "the key of the repository is no key of 32 bytes")
	}
	out, err := box.SealAnonymous(nil, []byte(value), (*[32]byte)(b), rand.Reader)
	return base64.StdEncoding.EncodeToString(out), err
}

// gitlab makes variables of a project, or gives those that are there their values.
func (p *provider) gitlab(ctx context.Context, project string, v *variables) error {
	root := "/api/v4/projects/" + url.PathEscape(project) + "/variables"
	for _, name := range v.names() {
		x := v.Variables[name]
		body := map[string]any{"key": name, "value": x.Value, "masked": x.Secret, "protected": false, "variable_type": "env_var", "raw": true}
		status, err := p.call(ctx, http.MethodGet, root+"/"+name, nil, nil, http.StatusNotFound)
		if err != nil {
			return err
		}
		method, path := http.MethodPut, root+"/"+name
		if status == http.StatusNotFound {
			method, path = http.MethodPost, root
		}
		if _, err := p.call(ctx, method, path, body, nil); err != nil {
			return err
		}
	}
	return nil
}
