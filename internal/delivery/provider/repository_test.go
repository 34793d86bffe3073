package provider_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/internal/delivery/provider"
)

func TestParseRepository(t *testing.T) {
	t.Parallel()
	at := func(kind, web string) provider.Host {
		u, err := url.Parse(web)
		if err != nil {
			t.Fatal(err)
		}
		return provider.Host{Kind: kind, Web: u}
	}
	hosts := []provider.Host{
		at(provider.GitLab, "https://code.example.com/gitlab"), at(provider.GitHub, "https://git.example.com"), at(provider.GitHub, "http://127.0.0.1:8080"),
		at(provider.AzureDevOps, "https://tfs.example.com/tfs"), at(provider.GitLab, "https://code.example.com:8443"),
	}
	for text, want := range map[string]provider.Repository{
		"https://github.com/acme/app":                                      {Kind: "github", Host: "github.com", Path: "acme/app"},
		"https://github.com/acme/app.git":                                  {Kind: "github", Host: "github.com", Path: "acme/app"},
		" HTTPS://www.GitHub.com/Acme/App/ ":                               {Kind: "github", Host: "github.com", Path: "Acme/App"},
		"https://x-access-token:s3cr3t@github.com/acme/app.git":            {Kind: "github", Host: "github.com", Path: "acme/app"},
		"https://github.com/acme/app/tree/main/src":                        {Kind: "github", Host: "github.com", Path: "acme/app"},
		"git@github.com:acme/app.git":                                      {Kind: "github", Host: "github.com", Path: "acme/app"},
		"ssh://git@github.com:22/acme/app.git":                             {Kind: "github", Host: "github.com", Path: "acme/app"},
		"git://github.com/acme/app":                                        {Kind: "github", Host: "github.com", Path: "acme/app"},
		"github.com/acme/app":                                              {Kind: "github", Host: "github.com", Path: "acme/app"},
		"acme/app":                                                         {Path: "acme/app"},
		"git@git.example.com:acme/app":                                     {Kind: "github", Host: "git.example.com", Path: "acme/app"},
		"http://127.0.0.1:8080/acme/app":                                   {Kind: "github", Host: "127.0.0.1:8080", Path: "acme/app"},
		"http://localhost:8080/acme/app":                                   {Host: "localhost:8080", Path: "acme/app"},
		"https://gitlab.com/group/sub/app":                                 {Kind: "gitlab", Host: "gitlab.com", Path: "group/sub/app"},
		"https://gitlab.com/group/sub/app/-/tree/main":                     {Kind: "gitlab", Host: "gitlab.com", Path: "group/sub/app"},
		"git@gitlab.com:group/sub/app.git":                                 {Kind: "gitlab", Host: "gitlab.com", Path: "group/sub/app"},
		"21761957":                                                         {Kind: "gitlab", Path: "21761957"},
		"https://gitlab.com/projects/21761957":                             {Kind: "gitlab", Host: "gitlab.com", Path: "21761957"},
		"https://code.example.com/gitlab/group/app.git":                    {Kind: "gitlab", Host: "code.example.com", Path: "group/app"},
		"https://code.example.com:8443/group/app.git":                      {Kind: "gitlab", Host: "code.example.com:8443", Path: "group/app"},
		"https://dev.azure.com/acme/shop/_git/app":                         {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"https://acme@dev.azure.com/acme/shop/_git/app":                    {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"https://user:p@ss@dev.azure.com/acme/shop/_git/app":               {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"https://dev.azure.com/acme/My%20Shop/_git/My%20App":               {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/My Shop/My App"},
		"dev.azure.com/acme/shop/_git/app":                                 {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"https://dev.azure.com/acme/_git/app":                              {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/app/app"},
		"https://acme.visualstudio.com/shop/_git/app":                      {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"https://acme.visualstudio.com/DefaultCollection/shop/_git/app":    {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"git@ssh.dev.azure.com:v3/acme/shop/app":                           {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"ssh://git@ssh.dev.azure.com/v3/acme/shop/app":                     {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"acme@vs-ssh.visualstudio.com:v3/acme/shop/app":                    {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
		"https://tfs.example.com/tfs/Collection/shop/_git/app":             {Kind: "azure-devops", Host: "tfs.example.com", Path: "tfs/Collection/shop/app"},
		"https://dev.azure.com/acme/shop/_git/app?path=/&version=GBmaster": {Kind: "azure-devops", Host: "dev.azure.com", Path: "acme/shop/app"},
	} {
		got, err := provider.ParseRepository(text, hosts...)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, bad := range []string{"", " ", "app", "https://", "https://github.com", "https://github.com/acme", "https://s3cr3t@dev.azure.com/acme/app", "a b/c", "https://github.com/../x", "https://dev.azure.com/a/../_git/x", "https://github.com/acme/.git", "git@ssh.dev.azure.com:v3/../b/c", "https://u:s3cr3t@gitlab.com/%zz/x", "https://dev.azure.com/_git/app"} {
		r, err := provider.ParseRepository(bad, hosts...)
		if !waybill.IsKind(err, waybill.KindInvalid) || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: %+v, %v", bad, r, err)
		}
	}
	a, _ := provider.ParseRepository("git@ssh.dev.azure.com:v3/acme/shop/app")
	b, _ := provider.ParseRepository("https://dev.azure.com/Acme/shop/_git/app")
	if org, project, name := a.Azure(); !a.Same(b) || org != "acme" || project != "shop" || name != "app" || a.String() != "dev.azure.com/acme/shop/_git/app" {
		t.Errorf("%+v %+v", a, b)
	}
}

func FuzzParseRepository(f *testing.F) {
	for _, s := range []string{"https://github.com/a/b", "git@x:y/z", "v3/a/b/c", "https://o.visualstudio.com/_git/x", "12", "a:1/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := provider.ParseRepository(s)
		if err == nil && (r.Path == "" || strings.Contains("/"+r.Path+"/", "/../")) {
			t.Errorf("%q: %+v", s, r)
		}
	})
}
