package project

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/schema"
)

// Auth says who may use the server besides those who hold its own tokens.
type Auth struct {
	OIDC []waybill.OIDCIssuer
}

var (
	issuerKeys = []string{"audience", "ca_file", "id", "issuer", "name", "roles"}
	ruleKeys   = []string{"claim", "role", "value"}
)

// oidcReader reads the list auth.oidc into issuers.
func oidcReader(to *[]waybill.OIDCIssuer) func(*settingsReader, string, ast.Node) {
	return func(r *settingsReader, name string, n ast.Node) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok {
			r.add(placeOf(n), "", "%s: expected a list of issuers", name)
			return
		}
		before := len(r.problems)
		for i, x := range seq.Values {
			what := name + "[" + strconv.Itoa(i) + "]"
			at := len(r.problems)
			issuer := r.issuer(what, x)
			if len(r.problems) > at {
				continue
			}
			if err := issuer.Check(); err != nil {
				r.add(placeOf(x), "", "%s.%v", what, err)
			}
			*to = append(*to, issuer)
		}
		if len(r.problems) > before {
			return
		}
		if i, err := waybill.CheckOIDCIssuers(*to); err != nil {
			r.add(placeOf(seq.Values[i]), "", "%s[%d].%v", name, i, err)
		}
	}
}

// issuer reads one element of auth.oidc.
func (r *settingsReader) issuer(what string, n ast.Node) waybill.OIDCIssuer {
	var out waybill.OIDCIssuer
	texts := map[string]*string{"issuer": &out.Issuer, "id": &out.ID, "audience": &out.Audience, "name": &out.Name, "ca_file": &out.CAFile}
	r.object(what, n, issuerKeys, func(key string, v ast.Node) {
		if to := texts[key]; to != nil {
			*to, _ = r.text(what+"."+key, v)
			return
		}
		seq, ok := v.(*ast.SequenceNode)
		if !ok {
			r.add(placeOf(v), "", "%s.roles: expected a list of rules", what)
			return
		}
		for i, x := range seq.Values {
			var rule waybill.OIDCRule
			var role string
			texts := map[string]*string{"claim": &rule.Claim, "value": &rule.Value, "role": &role}
			at := what + ".roles[" + strconv.Itoa(i) + "]"
			r.object(at, x, ruleKeys, func(key string, v ast.Node) { *texts[key], _ = r.text(at+"."+key, v) })
			rule.Role = waybill.Role(role)
			out.Roles = append(out.Roles, rule)
		}
	})
	return out
}

// object calls f for each of the keys that an object has.
func (r *settingsReader) object(what string, n ast.Node, keys []string, f func(key string, v ast.Node)) {
	m, ok := n.(ast.MapNode)
	if !ok {
		r.add(placeOf(n), "", "%s: expected an object with %s", what, strings.Join(keys, ", "))
		return
	}
	seen := map[string]bool{}
	for it := m.MapRange(); it.Next(); {
		key, known := it.Key().GetToken().Value, false
		for _, k := range keys {
			known = known || k == key
		}
		switch {
		case !known:
			hint := "there are " + strings.Join(keys, ", ")
			if n := nearest(key, keys); n != "" {
				hint = "did you mean " + n + "?"
			}
			r.add(placeOf(it.Key()), hint, "unknown key %s.%.80s", what, key)
		case seen[key]:
			r.add(placeOf(it.Key()), "", "%s.%s is there twice", what, key)
		case it.Value().Type() != ast.NullType:
			f(key, it.Value())
		}
		seen[key] = true
	}
}

// oidcSchema is the JSON Schema of an element of auth.oidc.
func oidcSchema() schema.Schema {
	role := schema.Words(string(waybill.RoleViewer), string(waybill.RoleOperator), string(waybill.RoleAdmin), string(waybill.RoleReporter))
	rule := schema.Object(map[string]schema.Schema{
		"claim": schema.Text().Doc("Name of a claim; dots lead into objects, as in realm_access.roles."),
		"value": schema.Scalar().Doc("Value that the claim has, or that is in its list; * stands for any number of characters.").
			With("examples", []any{"platform-admins", "example-org/*"}),
		"role": role.Doc("What the holder of the token may do."),
	}, ruleKeys...)
	return schema.Object(map[string]schema.Schema{
		"issuer": schema.Text().Doc("URL of the identity provider, exactly as the claim iss of its tokens has it.").
			With("examples", []any{"https://login.example.com/", "https://token.actions.githubusercontent.com"}),
		"id":       schema.Text().Doc("Short name that keeps the people of several issuers apart: oidc/ID:NAME instead of oidc:NAME."),
		"audience": schema.Text().Doc("What the claim aud of the tokens must hold."),
		"name":     schema.Text().Doc("Claim that names the holder, such as email.").With("default", "sub"),
		"roles":    schema.List(rule).Doc("Rules in order: the first whose claim fits gives the role; without one the request is refused."),
		"ca_file":  schema.Text().Doc("File with PEM certificates that the issuer's certificate is checked with instead of the system's; relative to the project folder."),
	}, "audience", "issuer", "roles")
}
