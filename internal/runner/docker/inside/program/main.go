// Command program is the first process of a container by itself, as tests put it there.
package main

import (
	"os"

	"github.com/waybill-run/waybill/internal/runner/docker/inside"
)

func main() { os.Exit(inside.Main()) }
