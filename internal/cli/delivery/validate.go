package delivery

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

func (a *app) validateCmd() *cobra.Command {
	var selfTest bool
	cmd := &cobra.Command{
		Use: "validate", Aliases: []string{"v"}, Short: "Check the settings, and the server that they name", Args: cobra.NoArgs,
		Long: `Check the settings, and the server that they name.

Settings that name a server are complete; those of the older service need introspection.azure with
account_name, key, partition_key and table_name, and azure_devops with org and project.

--self-test has the server report to a partition of its own, read what follows and delete it again:
nothing else is touched, and nothing is left.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return failed("validate", a.validate(cmd.Context(), selfTest))
		},
	}
	cmd.Flags().BoolVarP(&selfTest, "self-test", "s", false, "report, read and delete again")
	return cmd
}

// needed are the settings of the older service, with the variables that stand for them.
var needed = []struct{ path, env string }{
	{"introspection.azure.account_name", "INTROSPECTION_ACCOUNT_NAME"}, {"introspection.azure.key", "INTROSPECTION_ACCOUNT_KEY"},
	{"introspection.azure.partition_key", "INTROSPECTION_PARTITION_KEY"}, {"introspection.azure.table_name", "INTROSPECTION_TABLE_NAME"},
	{"azure_devops.org", ""}, {"azure_devops.project", ""},
}

// missing are the settings that are not there and should be.
func (s *settings) missing(named bool) []string {
	if named && !s.groups["introspection.azure"] {
		return nil
	}
	if !s.groups["introspection"] && !named {
		fromEnv := false
		for _, x := range needed {
			fromEnv = fromEnv || x.env != "" && s.env(x.env) != ""
		}
		if !fromEnv {
			return []string{"introspection"}
		}
	}
	var out []string
	for _, x := range needed {
		if named && strings.HasPrefix(x.path, "azure_devops.") && !s.groups["azure_devops"] {
			continue
		}
		if s.get(x.path) == "" && (x.env == "" || s.env(x.env) == "") {
			out = append(out, x.path)
		}
	}
	return out
}

func (a *app) validate(ctx context.Context, selfTest bool) error {
	s, err := a.load()
	if err != nil {
		return err
	}
	named := first(a.Server(), s.server()) != ""
	if missing := s.missing(named); len(missing) > 0 {
		return errorf(codeValidation, "introspect-validate-cmd-missing-vals", "the settings lack %s", strings.Join(missing, ", ")).
			because(fmt.Errorf("looked in the environment, .env and %s", first(s.file, "no file")))
	}
	if _, err := fmt.Fprintln(a.Stdout, "the settings are complete"); err != nil {
		return err
	}
	if !named && !selfTest {
		a.note("no server is named, so none was asked")
		return nil
	}
	c, err := a.connect(s, 0)
	if err != nil {
		return err
	}
	failing, err := c.DeliveryHealth(ctx)
	switch {
	case client.KindOf(err) == waybill.KindForbidden:
		a.note("the token does not read, so the health of the server was not asked for")
	case err != nil:
		return errorf(codeFlow, "introspect-validate-cmd-server-err", "the server cannot be asked how it is").because(storage(err))
	case len(failing) > 0:
		return errorf(codeFlow, "introspect-validate-cmd-unhealthy", "%s of the server failed: %s", plural(len(failing), "check"), strings.Join(failing, "; "))
	default:
		if _, err := fmt.Fprintln(a.Stdout, "the server works"); err != nil {
			return err
		}
	}
	if !selfTest {
		return nil
	}
	res, err := c.TestDeliveries(ctx)
	if err != nil {
		return errorf(codeFlow, "introspect-validate-cmd-self-test-err", "the self-test did not succeed").because(storage(err))
	}
	_, err = fmt.Fprintf(a.Stdout, "the self-test succeeded within %.1f ms\n", res.TookMs)
	return err
}
