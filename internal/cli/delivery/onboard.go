package delivery

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// onboard are the flags of onboard.
type onboard struct {
	backend, account, table, key, partition, endpoint string
	ignored                                           [6]string
}

func (a *app) onboardCmd() *cobra.Command {
	var f onboard
	cmd := &cobra.Command{
		Use: "onboard", Aliases: []string{"o"}, Short: "Prepare a project for reports, or take over those of the older service", Args: cobra.NoArgs,
		Long: `Prepare a project for reports, or take over those of the older service. Doing so twice changes nothing.

  --backend local   makes a token that reports, on the server that the settings name, and writes server,
                    partition and token into the settings
  --backend azure   reads the table that the older service kept in Azure Storage and reports its rows to the
                    server. Nothing is written to the table, and neither account nor table are made:
                    the flags that were needed for that are taken and have no meaning`,
		RunE: func(cmd *cobra.Command, _ []string) error { return failed("onboard", a.onboard(cmd.Context(), f)) },
	}
	x := cmd.Flags()
	x.StringVar(&f.backend, "backend", "local", "local or azure")
	x.StringVarP(&f.partition, "partition-key", "p", "", "project that is prepared (INTROSPECTION_PARTITION_KEY)")
	x.StringVarP(&f.account, "storage-account-name", "s", "", "with azure: account (introspection.azure.account_name)")
	x.StringVarP(&f.table, "storage-table-name", "t", "", "with azure: table (introspection.azure.table_name)")
	x.StringVarP(&f.key, "storage-access-key", "k", "", "with azure: key (introspection.azure.key, INTROSPECTION_STORAGE_ACCESS_KEY)")
	x.StringVar(&f.endpoint, "storage-endpoint", "", "with azure: `URL` of the table service (default: that of the public cloud)")
	for i, name := range []string{"storage-resource-group-name", "storage-location", "service-principal-id", "service-principal-password", "tenant-id", "subscription-id"} {
		short := map[string]string{"storage-resource-group-name": "r", "storage-location": "l"}[name]
		x.StringVarP(&f.ignored[i], name, short, "", "has no meaning here")
		x.Lookup(name).Hidden = true
	}
	return cmd
}

func (a *app) onboard(ctx context.Context, f onboard) error {
	if err := oneOf("backend", &f.backend, "local", "azure"); err != nil {
		return err
	}
	s, err := a.load()
	if err != nil {
		return err
	}
	f.partition = s.partition(f.partition)
	if err := checkPartition(f.partition); err != nil {
		return err
	}
	// What is named is checked, needed or not: a name that cannot be is a mistake.
	if f.account != "" && asURL(f.account) == "" && !accountName(f.account) {
		return errorf(codeValidation, "introspect-onboard-cmd-account-name-err", "%q is no name of a storage account: 3 to 24 lower-case letters and digits", f.account)
	}
	if f.table != "" && !tableName(f.table) {
		return errorf(codeValidation, "introspect-onboard-cmd-table-name-err", "%q is no name of a table: 3 to 63 letters and digits, a letter first", f.table)
	}
	if f.backend == "azure" {
		return a.takeOver(ctx, s, f)
	}
	return a.prepare(ctx, s, f.partition)
}

func accountName(s string) bool {
	return len(s) >= 3 && len(s) <= 24 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

func tableName(s string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return len(s) >= 3 && len(s) <= 63 && strings.Trim(s, letters+"0123456789") == "" && strings.ContainsAny(s[:1], letters)
}

// prepare makes a token that reports and notes it.
func (a *app) prepare(ctx context.Context, s *settings, partition string) error {
	server := first(a.Server(), s.server(), client.DefaultServer)
	if s.get("introspection.server") == server && s.get("introspection.partition") == partition && s.get("introspection.report_token") != "" {
		// Is it good still? The self-test needs no more than the right to report.
		c, err := client.New(client.Options{Server: server, Token: s.get("introspection.report_token"), HTTP: a.HTTP})
		if err != nil {
			return errorf(codeSetting, "server-setting-err", "the server cannot be asked").because(err)
		}
		_, err = c.TestDeliveries(ctx)
		if err == nil {
			_, err = fmt.Fprintf(a.Stdout, "nothing to do: %s takes reports of %s\n", clean(server), clean(first(partition, "the default partition")))
			return err
		}
		if client.KindOf(err) != waybill.KindUnauthorized {
			return errorf(codeFlow, "introspect-onboard-cmd-server-err", "the server cannot be asked").because(storage(err))
		}
		a.note("the token of the settings is not valid any more; another one is made")
	}
	c, err := a.connect(s, 0)
	if err != nil {
		return err
	}
	name := "reports " + first(partition, "default")
	token, err := c.CreateToken(ctx, client.CreateToken{Name: name, Role: waybill.RoleReporter}, "")
	if err != nil {
		return errorf(codeFlow, "introspect-onboard-cmd-token-err", "no token was made; that needs the role admin").because(storage(err))
	}
	set := []setting{{"introspection.server", server}}
	if partition != "" {
		set = append(set, setting{"introspection.partition", partition})
	}
	set = append(set, setting{"introspection.report_token", token.Secret})
	text, err := edit(s.raw, set)
	if err == nil {
		err = save(s.file, text)
	}
	if err != nil {
		// Nobody has the token, so it opens nothing for anybody; it goes.
		undo := c.RevokeToken(ctx, token.Token.ID)
		var chain *Error
		if !errors.As(err, &chain) {
			err = errorf(codeFile, "config-file-write-err", "the settings in %s cannot be written", s.file).because(err)
		}
		return errors.Join(err, undo)
	}
	_, err = fmt.Fprintf(a.Stdout, "token %s (%s), which only reports\nserver, partition and token in %s\n", clean(name), token.Token.ID, clean(s.file))
	return err
}

// takeOver reports the rows of a table.
func (a *app) takeOver(ctx context.Context, s *settings, f onboard) error {
	if a.Legacy == nil {
		return errorf(codeFlow, "introspect-onboard-cmd-azure-err", "this program was built without Azure Storage")
	}
	t := LegacyTable{
		Account: first(f.account, s.env("INTROSPECTION_ACCOUNT_NAME"), s.get("introspection.azure.account_name")), Table: first(f.table, s.env("INTROSPECTION_TABLE_NAME"), s.get("introspection.azure.table_name")),
		Key:       first(f.key, s.env("INTROSPECTION_STORAGE_ACCESS_KEY", "INTROSPECTION_ACCOUNT_KEY"), s.get("introspection.azure.key")),
		Partition: f.partition, Endpoint: first(f.endpoint, s.env("INTROSPECTION_STORAGE_ENDPOINT")),
	}
	var missing []string
	for _, x := range []struct{ name, value string }{{"--storage-account-name", t.Account}, {"--storage-table-name", t.Table}, {"--storage-access-key", t.Key}, {"--partition-key", t.Partition}} {
		if x.value == "" {
			missing = append(missing, x.name)
		}
	}
	if len(missing) > 0 {
		return errorf(codeValidation, "introspect-onboard-cmd-missing-vals", "onboard --backend azure needs %s", strings.Join(missing, ", "))
	}
	// The name and key of an account are no server and token here.
	c, err := a.connectToReport(s)
	if err != nil {
		return err
	}
	var rows, bare, reports, known int
	err = a.Legacy(ctx, t, func(row map[string]string) error {
		rows++
		list := legacyReports(row, t.Partition)
		if len(list) == 0 {
			bare++
			a.detail("row %s says nothing of a deployment", row["RowKey"])
		}
		for _, r := range list {
			res, err := tell(ctx, c, r)
			if err != nil {
				return err
			}
			if reports++; res.Action == waybill.ActionRepeated {
				known++
			}
			if res.Warning != "" {
				a.detail("row %s: %s", row["RowKey"], res.Warning)
			}
		}
		return nil
	})
	if err != nil {
		var chain *Error
		if errors.As(err, &chain) {
			return errorf(codeFlow, "introspect-onboard-cmd-import-err", "%s were read when a report was refused; do it again, what is there changes nothing", plural(rows, "row")).because(err)
		}
		return errorf(codeFlow, "introspect-onboard-cmd-import-err", "the table was read up to row %d; do it again, what is there changes nothing", rows).
			because(errorf(codeStorage, "azure-table-err", "the table cannot be read").because(err))
	}
	if rows == 0 {
		a.note("table %s has no rows in partition %s", t.Table, t.Partition)
	}
	_, err = fmt.Fprintf(a.Stdout, "%s read, %s: %d new, %d known; %s without a deployment\n", plural(rows, "row"), plural(reports, "report"), reports-known, known, plural(bare, "row"))
	return err
}
