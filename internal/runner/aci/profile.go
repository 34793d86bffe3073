package aci

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/waybill-run/waybill"
)

// readProfile reads an ARM template of a container group, or the resource alone. Its
// parameters get their values from the settings, or else their defaults. What a unit
// cannot be based on is refused by its name.
func readProfile(file []byte, values map[string]string, location string) (*group, error) {
	bad := func(format string, args ...any) error {
		return waybill.E(waybill.KindInvalid, "profile: %s", fmt.Sprintf(format, args...))
	}
	var doc struct {
		Resources  json.RawMessage         `json:"resources"`
		Parameters map[string]armParameter `json:"parameters"`
		Variables  map[string]any          `json:"variables"`
		Properties json.RawMessage         `json:"properties"`
	}
	if err := json.Unmarshal(bytes.TrimPrefix(file, []byte("\xef\xbb\xbf")), &doc); err != nil {
		return nil, bad("it is no JSON: %v", err)
	}
	e := evaluator{parameters: map[string]any{}, variables: doc.Variables, location: location}
	for name, value := range values {
		p, ok := find(doc.Parameters, name)
		if !ok {
			return nil, bad("the template has no parameter %q; it has %s", name, strings.Join(slices.Sorted(maps.Keys(doc.Parameters)), ", "))
		}
		if len(p.Allowed) > 0 && !slices.ContainsFunc(p.Allowed, func(a any) bool { return fmt.Sprint(a) == value }) {
			return nil, bad("parameter %s: %q is none of the allowed values", name, value)
		}
		v, err := p.value(value)
		if err != nil {
			return nil, bad("parameter %s: %v", name, err)
		}
		e.parameters[strings.ToLower(name)] = v
	}
	for name, p := range doc.Parameters {
		if _, ok := e.parameters[strings.ToLower(name)]; !ok && p.Default != nil {
			v, err := e.eval(p.Default)
			if err != nil {
				return nil, bad("parameter %s: %v", name, err)
			}
			e.parameters[strings.ToLower(name)] = v
		}
	}
	var resource map[string]any
	if doc.Resources == nil {
		if err := json.Unmarshal(file, &resource); err != nil || doc.Properties == nil {
			return nil, bad("it has neither resources nor properties: it is no template of a container group")
		}
	} else {
		var all []map[string]any
		if err := json.Unmarshal(doc.Resources, &all); err != nil {
			var named map[string]map[string]any // newer templates
			if err := json.Unmarshal(doc.Resources, &named); err != nil {
				return nil, bad("resources: expected a list")
			}
			for _, k := range slices.Sorted(maps.Keys(named)) {
				all = append(all, named[k])
			}
		}
		for _, x := range all {
			if t, _ := x["type"].(string); !strings.EqualFold(t, "Microsoft.ContainerInstance/containerGroups") {
				continue
			}
			if resource != nil {
				return nil, bad("it has several container groups; a unit is one")
			}
			resource = x
		}
		if resource == nil {
			return nil, bad("it has no resource of type Microsoft.ContainerInstance/containerGroups")
		}
	}
	for _, k := range []string{"type", "apiVersion", "name", "dependsOn", "comments", "scale", "condition", "copy"} {
		if k == "condition" || k == "copy" {
			if resource[k] != nil {
				return nil, bad("%s is not supported", k)
			}
		}
		delete(resource, k)
	}
	value, err := e.eval(resource)
	if err != nil {
		return nil, bad("%v", err)
	}
	b, err := json.Marshal(value)
	if err != nil {
		return nil, bad("%v", err)
	}
	var g group
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&g); err != nil {
		return nil, bad("%s", strings.NewReplacer("json: unknown field ", "this field is not supported: ", "json: cannot unmarshal ", "expected another value than ").Replace(err.Error()))
	}
	return &g, checkProfile(&g)
}

func checkProfile(g *group) error {
	bad := func(format string, args ...any) error {
		return waybill.E(waybill.KindInvalid, "profile: %s", fmt.Sprintf(format, args...))
	}
	p := &g.Properties
	switch {
	case p.OSType != "" && !strings.EqualFold(p.OSType, "Linux"):
		return bad("osType: units run on Linux, found %s", p.OSType)
	case p.RestartPolicy != "" && p.RestartPolicy != "Never":
		return bad("restartPolicy: a unit runs once, so it has to be Never, found %s; the retries of a step are said in its retry", p.RestartPolicy)
	case len(p.Containers) != 1:
		return bad("containers: a unit is one container, found %d", len(p.Containers))
	case p.Containers[0].Properties.Image == "":
		return bad("containers: the image is missing")
	case p.Containers[0].Properties.Liveness != nil:
		return bad("livenessProbe is not supported: Waybill uses it for the last moment at which a unit may run")
	case p.View != nil || p.Containers[0].Properties.View != nil:
		return bad("instanceView is what Azure answers, and no part of a template")
	}
	for _, m := range p.Containers[0].Properties.Mounts {
		if m.Path == "/waybill" || strings.HasPrefix(m.Path, "/waybill/") {
			return bad("volumeMounts: %s is where a unit finds its own files", m.Path)
		}
	}
	for _, v := range p.Volumes {
		if strings.HasPrefix(v.Name, "waybill-") {
			return bad("volumes: the name %s is taken", v.Name)
		}
	}
	p.ProvisioningState, g.ID, g.Name = "", "", ""
	return nil
}

// copy is one of its own.
func (g *group) copy() *group {
	b, err := json.Marshal(g)
	if err != nil {
		panic(err) // it came from JSON
	}
	var out group
	if err := json.Unmarshal(b, &out); err != nil {
		panic(err)
	}
	return &out
}

// find is a parameter by its name, which is read without regard to case.
func find(all map[string]armParameter, name string) (armParameter, bool) {
	for k, p := range all {
		if strings.EqualFold(k, name) {
			return p, true
		}
	}
	return armParameter{}, false
}

type armParameter struct {
	Type    string `json:"type"`
	Default any    `json:"defaultValue"`
	Allowed []any  `json:"allowedValues"`
}

func (p armParameter) value(text string) (any, error) {
	switch strings.ToLower(p.Type) {
	case "", "string", "securestring":
		return text, nil
	}
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("expected a value of type %s as JSON", p.Type)
	}
	return v, nil
}

// evaluator puts values into a template.
type evaluator struct {
	parameters map[string]any // by their names in small letters
	variables  map[string]any
	location   string
	depth      int
}

// eval replaces the expressions in a value.
func (e *evaluator) eval(v any) (any, error) {
	switch v := v.(type) {
	case string:
		if !strings.HasPrefix(v, "[") || !strings.HasSuffix(v, "]") {
			return v, nil
		}
		if strings.HasPrefix(v, "[[") {
			return v[1:], nil
		}
		x := &expression{e: e, text: v[1 : len(v)-1]}
		out, err := x.value()
		if err == nil {
			if x.space(); x.at < len(x.text) {
				err = fmt.Errorf("%q is not expected", x.text[x.at:])
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", v, err)
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = e.eval(v[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			key, err := e.eval(k)
			if err != nil {
				return nil, err
			}
			if out[fmt.Sprint(key)], err = e.eval(x); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// expression is one of a template: calls of functions, texts and numbers.
type expression struct {
	e    *evaluator
	text string
	at   int
}

func (x *expression) space() {
	for x.at < len(x.text) && strings.ContainsRune(" \t\r\n", rune(x.text[x.at])) {
		x.at++
	}
}

func (x *expression) value() (any, error) {
	x.space()
	rest := x.text[x.at:]
	switch {
	case strings.HasPrefix(rest, "'"):
		var b strings.Builder
		for i := 1; i < len(rest); i++ {
			if rest[i] != '\'' {
				b.WriteByte(rest[i])
			} else if i+1 < len(rest) && rest[i+1] == '\'' {
				b.WriteByte('\'')
				i++
			} else {
				x.at += i + 1
				return b.String(), nil
			}
		}
		return nil, fmt.Errorf("a text has no end")
	case rest != "" && (rest[0] == '-' || rest[0] >= '0' && rest[0] <= '9'):
		n := len(rest) - len(strings.TrimLeft(rest, "-0123456789."))
		x.at += n
		var f json.Number
		return f, json.Unmarshal([]byte(rest[:n]), &f)
	}
	n := len(rest) - len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_."))
	name := rest[:n]
	if x.at += n; name == "" || !strings.HasPrefix(x.text[x.at:], "(") {
		return nil, fmt.Errorf("expected a function, found %q", rest)
	}
	x.at++
	var args []any
	for {
		x.space()
		if strings.HasPrefix(x.text[x.at:], ")") {
			x.at++
			break
		}
		if len(args) > 0 {
			if !strings.HasPrefix(x.text[x.at:], ",") {
				return nil, fmt.Errorf("expected a comma or a bracket at %q", x.text[x.at:])
			}
			x.at++
		}
		a, err := x.value()
		if err != nil {
			return nil, err
		}
		args = append(args, a)
	}
	v, err := x.e.call(name, args)
	for err == nil && strings.HasPrefix(x.text[x.at:], ".") {
		rest := x.text[x.at+1:]
		n := len(rest) - len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"))
		m, ok := v.(map[string]any)
		if !ok || m[rest[:n]] == nil {
			return nil, fmt.Errorf("%s has no %q that is known here", name, rest[:n])
		}
		v, x.at = m[rest[:n]], x.at+1+n
	}
	return v, err
}

// call is a function of templates.
func (e *evaluator) call(name string, args []any) (any, error) {
	texts := make([]string, len(args))
	for i, a := range args {
		texts[i] = fmt.Sprint(a)
	}
	one := func() (string, error) {
		if len(args) != 1 {
			return "", fmt.Errorf("%s takes one argument, found %d", name, len(args))
		}
		return texts[0], nil
	}
	if e.depth++; e.depth > 100 {
		return nil, fmt.Errorf("it refers to itself")
	}
	defer func() { e.depth-- }()
	switch strings.ToLower(name) {
	case "parameters":
		p, err := one()
		if err != nil {
			return nil, err
		}
		v, ok := e.parameters[strings.ToLower(p)]
		if !ok {
			return nil, fmt.Errorf("parameter %q has no value: give it one in parameters", p)
		}
		return v, nil
	case "variables":
		p, err := one()
		if err != nil {
			return nil, err
		}
		for k, v := range e.variables {
			if strings.EqualFold(k, p) {
				return e.eval(v)
			}
		}
		return nil, fmt.Errorf("there is no variable %q", p)
	case "resourcegroup":
		if e.location == "" {
			return map[string]any{}, nil
		}
		return map[string]any{"location": e.location}, nil
	case "tolower":
		s, err := one()
		return strings.ToLower(s), err
	case "toupper":
		s, err := one()
		return strings.ToUpper(s), err
	case "string":
		return one()
	case "concat":
		if len(args) > 0 {
			if _, ok := args[0].([]any); ok {
				var out []any
				for _, a := range args {
					l, ok := a.([]any)
					if !ok {
						return nil, fmt.Errorf("concat of a list and something else")
					}
					out = append(out, l...)
				}
				return out, nil
			}
		}
		return strings.Join(texts, ""), nil
	case "resourceid":
		return resourceID(texts)
	}
	return nil, fmt.Errorf("the function %s is not supported; those are parameters, variables, resourceGroup().location, resourceId, concat, string, toLower, toUpper", name)
}

// resourceID makes an id of a subscription, a resource group, a type and names. Without the
// first two it would be one of the resource group of the groups, which is where identities
// should not be.
func resourceID(args []string) (any, error) {
	i := slices.IndexFunc(args, func(a string) bool { return strings.Contains(a, "/") })
	if i != 2 {
		return nil, fmt.Errorf("resourceId needs a subscription and a resource group before the type, as this program does not know those of the template")
	}
	types := strings.Split(args[2], "/")
	names := args[3:]
	if len(types)-1 != len(names) || len(names) == 0 {
		return nil, fmt.Errorf("resourceId: %s needs %d names, found %d", args[2], len(types)-1, len(names))
	}
	id := "/subscriptions/" + args[0] + "/resourceGroups/" + args[1] + "/providers/" + types[0]
	for k, n := range names {
		id += "/" + types[k+1] + "/" + n
	}
	return id, nil
}
