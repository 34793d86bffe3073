//go:build slim

package facetcli

import (
	"github.com/spf13/cobra"

	"github.com/waybill-run/waybill"
)

// conformanceCommand says where the suite is: it brings what tests are made with.
func (d Deps) conformanceCommand() *cobra.Command {
	return &cobra.Command{
		Use: "conformance", Short: "Run the suite that every engine passes (not in this program)", Args: cobra.ArbitraryArgs, DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return waybill.E(waybill.KindUnsupported, "this program was built without the suite").WithHint("use the full program (make build)")
		},
	}
}
