package delivery

import "testing"

func TestEditKeepsWhatIsThere(t *testing.T) {
	const big = "# ours\nazure_devops:\n  org: harbour # the organisation\n  access_token: ${env:PAT}\nintrospection:\n  # where\n  azure:\n    key: ${env:KEY}\n"
	for _, x := range []struct {
		name, src, path, value, want string
	}{
		{"nothing", "", "introspection.server", "http://a", "introspection:\n  server: http://a\n"},
		{"comments only", "# mine\n", "introspection.server", "http://a", "# mine\nintrospection:\n  server: http://a\n"},
		{"another group", "a: 1\n", "introspection.server", "http://a", "a: 1\nintrospection:\n  server: http://a\n"},
		{"the group", "introspection:\n  partition: p\n", "introspection.server", "http://a", "introspection:\n  partition: p\n  server: http://a\n"},
		{"a null group", "introspection:\nb: 2\n", "introspection.server", "http://a", "introspection:\n  server: http://a\nb: 2\n"},
		{"the value", "introspection:\n  server: x\n  partition: p\n", "introspection.server", "http://a", "introspection:\n  server: http://a\n  partition: p\n"},
		{"text that looks like another type", "a:\n  b: 1\n", "a.b", "true", "a:\n  b: \"true\"\n"},
		{"beside comments", big, "introspection.server", "http://a", big + "  server: http://a\n"},
		{"within", big, "azure_devops.org", "port", "# ours\nazure_devops:\n  org: port # the organisation\n  access_token: ${env:PAT}\nintrospection:\n  # where\n  azure:\n    key: ${env:KEY}\n"},
	} {
		got, err := edit([]byte(x.src), []setting{{x.path, x.value}})
		if err != nil || trim(string(got)) != trim(x.want) {
			t.Errorf("%s: %v\n%s\nwant\n%s", x.name, err, got, x.want)
		}
	}
}

func trim(s string) string {
	for len(s) > 0 && s[len(s)-1] == '\n' {
		s = s[:len(s)-1]
	}
	return s
}
