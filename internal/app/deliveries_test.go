package app

import "testing"

func TestF50_VariablesAreMasked(t *testing.T) {
	got := deliveryVariables("postgres://waybill:hunter22@db.example.org/waybill", []string{
		"INTROSPECTION_ACCOUNT_KEY=abcdefgh", "INTROSPECTION_TOKEN=short", "REACT_APP_MANIFEST_ACCESS_TOKEN=", "INTROSPECTION_PARTITION_KEY=harbour",
		"REACT_APP_SOURCE_REPO=https://user:pass@git.example.org/a", "INTROSPECTION_SERVER", "HOME=/root", "AWS_SECRET=abcdefgh",
	})
	want := map[string]string{
		"WAYBILL_STORE": "postgres://db.example.org/waybill", "INTROSPECTION_ACCOUNT_KEY": "****efgh", "INTROSPECTION_TOKEN": "*****",
		"REACT_APP_MANIFEST_ACCESS_TOKEN": "", "INTROSPECTION_PARTITION_KEY": "harbour", "REACT_APP_SOURCE_REPO": "https://git.example.org/a", "INTROSPECTION_SERVER": "",
	}
	if len(got) != len(want) {
		t.Errorf("got %v", got)
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
}
