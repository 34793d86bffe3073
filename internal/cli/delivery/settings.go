package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/waybill-run/waybill/client"
)

// settings are what is known besides flags: the environment, the file .env and the file
// of settings.
type settings struct {
	file   string // of settings; it need not be there
	found  bool
	values map[string]string // by path, such as introspection.azure.key; references are resolved
	groups map[string]bool   // paths that hold others
	raw    []byte            // the file, references as they are
	lookup func(string) string
	// strange: it is a file of the working folder that says which server is asked. What the
	// file of settings has of tokens is not for that one.
	strange bool
}

// maxSettings is how many bytes a file of settings can have.
const maxSettings = 1 << 20

// load reads the settings. A reference to a variable that is not set is an error: what
// it stands for would be missing without a word.
func (a *app) load() (*settings, error) {
	s := &settings{values: map[string]string{}, groups: map[string]bool{}}
	dot, err := readDotenv(".env")
	if err != nil {
		return nil, err
	}
	s.lookup = func(name string) string {
		if v := a.Getenv(name); v != "" {
			return v
		}
		return dot[name]
	}
	s.file = a.settingsFile()
	if s.file == "" {
		return s, nil
	}
	defer func() {
		folder := first(dot["INTROSPECTION_SERVER"], dot["WAYBILL_SERVER"], asURL(dot["INTROSPECTION_ACCOUNT_NAME"]))
		s.strange = folder != "" && folder == s.server() && a.Server() == "" && folder != s.ownServer() &&
			first(a.Getenv("INTROSPECTION_SERVER"), asURL(a.Getenv("INTROSPECTION_ACCOUNT_NAME"))) == ""
	}()
	s.raw, err = readSmall(s.file)
	if errors.Is(err, fs.ErrNotExist) && a.config == "" {
		return s, nil
	}
	if err != nil {
		return nil, errorf(codeFile, "config-file-read-err", "the settings in %s cannot be read", s.file).because(err)
	}
	s.found = true
	return s, s.parse()
}

// settingsFile is the path of the file of settings, empty when the person has no home.
func (a *app) settingsFile() string {
	if a.config != "" {
		return a.config
	}
	if h := a.home(); h != "" {
		return filepath.Join(h, ".bedrock", "config.yaml")
	}
	return ""
}

func readSmall(path string) ([]byte, error) {
	i, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !i.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if i.Size() > maxSettings {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, i.Size(), maxSettings)
	}
	return os.ReadFile(path)
}

// reference is a variable in a value.
var reference = regexp.MustCompile(`\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}`)

func (s *settings) parse() error {
	var tree any
	if err := yaml.Unmarshal(s.raw, &tree); err != nil {
		return errorf(codeFile, "config-file-yaml-err", "%s is no YAML", s.file).because(errors.New(yaml.FormatError(err, false, false)))
	}
	if tree == nil {
		return nil
	}
	if _, ok := tree.(map[string]any); !ok {
		return errorf(codeFile, "config-file-yaml-err", "%s does not hold settings: want names and values", s.file)
	}
	var unset []string
	s.walk("", tree, &unset)
	if len(unset) > 0 {
		sort.Strings(unset)
		return errorf(codeSetting, "env-var-undefined", "%s names variables that are not set: %s", s.file, strings.Join(unset, "; "))
	}
	return nil
}

func (s *settings) walk(path string, node any, unset *[]string) {
	below := func(name string) string {
		if path == "" {
			return name
		}
		return path + "." + name
	}
	switch x := node.(type) {
	case map[string]any:
		s.groups[path] = true
		for name, v := range x {
			s.walk(below(name), v, unset)
		}
	case []any:
		for i, v := range x {
			s.walk(below(strconv.Itoa(i)), v, unset)
		}
	case nil:
	case string:
		s.values[path] = reference.ReplaceAllStringFunc(x, func(ref string) string {
			name := reference.FindStringSubmatch(ref)[1]
			v := s.lookup(name)
			if v == "" {
				*unset = append(*unset, name+" (in "+path+")")
			}
			return v
		})
	default:
		s.values[path] = fmt.Sprint(x)
	}
}

// get is the value of the first path that has one.
func (s *settings) get(paths ...string) string {
	for _, p := range paths {
		if v := strings.TrimSpace(s.values[p]); v != "" {
			return v
		}
	}
	return ""
}

// env is the value of the first variable that has one, in the environment or in .env.
func (s *settings) env(names ...string) string {
	for _, n := range names {
		if v := strings.TrimSpace(s.lookup(n)); v != "" {
			return v
		}
	}
	return ""
}

// partition is the project whose deployments are meant.
func (s *settings) partition(flag string) string {
	return first(strings.TrimSpace(flag), s.env("INTROSPECTION_PARTITION_KEY"), s.get("introspection.partition", "introspection.azure.partition_key"))
}

// server is the URL of the server that the settings name, empty when they name none. The
// name of the account stands for it where it is a URL: then pipelines that pass the
// variables of the older service need not be changed.
func (s *settings) server() string {
	return first(s.env("INTROSPECTION_SERVER", "WAYBILL_SERVER"), asURL(s.env("INTROSPECTION_ACCOUNT_NAME")), s.ownServer())
}

// ownServer is the one that the file of settings names.
func (s *settings) ownServer() string {
	return first(s.get("introspection.server"), asURL(s.get("introspection.azure.account_name")))
}

// own is the first token of the file of settings, for a server that may have it.
func (s *settings) own(paths ...string) string {
	if s.strange {
		return ""
	}
	return s.get(paths...)
}

// token is the API token that the settings name, empty when they name none.
func (s *settings) token() string {
	return first(s.env("INTROSPECTION_TOKEN", "WAYBILL_API_TOKEN"), asToken(s.env("INTROSPECTION_ACCOUNT_KEY", "INTROSPECTION_STORAGE_ACCESS_KEY")),
		s.own("introspection.token"), asToken(s.own("introspection.azure.key")))
}

func asURL(s string) string {
	if strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") {
		return s
	}
	return ""
}

func asToken(s string) string {
	if strings.HasPrefix(s, "wbt_") {
		return s
	}
	return ""
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}

// reportToken is the token that reports are made with: one that does nothing else, where
// there is one.
func (s *settings) reportToken() string {
	return first(s.env("INTROSPECTION_TOKEN", "WAYBILL_API_TOKEN"), asToken(s.env("INTROSPECTION_ACCOUNT_KEY", "INTROSPECTION_STORAGE_ACCESS_KEY")),
		s.own("introspection.report_token"), s.token())
}

// connectToReport returns a client that reports.
func (a *app) connectToReport(s *settings) (*client.Client, error) {
	c, err := a.Client(s.server(), s.reportToken(), 0)
	if err != nil {
		return nil, errorf(codeSetting, "server-setting-err", "the server cannot be asked").because(err)
	}
	return c, nil
}

// connect returns a client for the server that flags, environment or settings name.
func (a *app) connect(s *settings, retryFor time.Duration) (*client.Client, error) {
	c, err := a.Client(s.server(), s.token(), retryFor)
	if err != nil {
		return nil, errorf(codeSetting, "server-setting-err", "the server cannot be asked").because(err)
	}
	return c, nil
}

// readDotenv reads NAME=VALUE lines. Blank lines and comments are left out, quotes around
// a value are taken off. A file that is not there has none.
func readDotenv(path string) (map[string]string, error) {
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, errorf(codeFile, "env-file-read-err", "the variables in %s cannot be read", path).because(err)
	}
	out := map[string]string{}
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(string(b), "\ufeff")) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			return nil, errorf(codeFile, "env-file-line-err", "%s:%d: want NAME=VALUE", path, n)
		}
		switch {
		case len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && strings.LastIndexByte(value, value[0]) > 0:
			quote := value[0]
			value = value[1:strings.LastIndexByte(value, quote)]
			if quote == '"' {
				value = strings.NewReplacer(`\n`, "\n", `\"`, `"`, `\\`, `\`).Replace(value)
			}
		default:
			if i := strings.Index(value, " #"); i >= 0 {
				value = strings.TrimSpace(value[:i])
			}
		}
		out[name] = value
	}
	return out, nil
}
