package delivery

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/waybill-run/waybill"
	"github.com/waybill-run/waybill/client"
)

// The codes of errors. Scripts look for them.
const (
	codeCommand    = 1000 // the command did not succeed; outermost
	codeValidation = 1001 // what was asked for cannot be
	codeFlow       = 1002 // a step on the way did not succeed
	codeSetting    = 1010 // a setting or a variable of the environment
	codeFile       = 1011
	codeStorage    = 2000 // what is kept of deployments
	codeVariables  = 2600 // variables of a pipeline provider
)

// Error is one level of a chain of errors: a code, a word for programs, a sentence for
// people, and the cause.
type Error struct {
	Code int
	Key  string
	Text string
	Err  error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func errorf(code int, key, format string, args ...any) *Error {
	return &Error{Code: code, Key: key, Text: fmt.Sprintf(format, args...)}
}

// because adds the cause.
func (e *Error) because(err error) *Error {
	e.Err = err
	return e
}

// failed is the outermost level: the command that did not succeed.
func failed(command string, err error) error {
	if err == nil {
		return nil
	}
	return errorf(codeCommand, "deployment-"+command+"-cmd-failed", "deployment %s did not succeed", command).because(err)
}

// Write writes the chain, each level two spaces further in.
func (e *Error) Write(w io.Writer) {
	indent := ""
	hint := ""
	for err := error(e); err != nil; indent += "  " {
		var level *Error
		if !errors.As(err, &level) {
			fmt.Fprintf(w, "%sdetails: %s\n", indent, clean(err.Error()))
			break
		}
		fmt.Fprintf(w, "%scode: %d\n%smessage: %s: %s\n", indent, level.Code, indent, level.Key, clean(level.Text))
		err = level.Err
	}
	var theirs *client.Error
	var ours *waybill.Error
	switch {
	case errors.As(e, &theirs):
		hint = theirs.Hint
	case errors.As(e, &ours):
		hint = ours.Hint
	}
	if hint = strings.TrimSpace(hint); hint != "" {
		fmt.Fprintf(w, "waybill: hint: %s\n", clean(hint))
	}
}
