// Package api holds the contract of the HTTP API, openapi.yaml, and makes the
// Go code that follows from it: the server interface in internal/httpd/openapi
// and the types of package client.
//
//	go generate ./api
package api

import _ "embed"

// Spec is the contract in YAML.
//
//go:embed openapi.yaml
var Spec []byte

//go:generate go tool -modfile=../tools/go.mod oapi-codegen -config server.cfg.yaml -o ../internal/httpd/openapi/openapi.gen.go openapi.yaml
//go:generate go tool -modfile=../tools/go.mod oapi-codegen -config client.cfg.yaml -o ../client/types.gen.go openapi.yaml
