// Command print writes the data set of deliverytest to standard output, one report a
// line, as POST /api/v1/deliveries/reports takes them.
package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/waybill-run/waybill/internal/delivery/deliverytest"
)

func main() {
	enc := json.NewEncoder(os.Stdout)
	for _, r := range deliverytest.Reports() {
		if err := enc.Encode(r); err != nil {
			fmt.Fprintln(os.Stderr, "print:", err)
			os.Exit(1)
		}
	}
}
