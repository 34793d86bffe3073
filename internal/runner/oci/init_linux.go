package oci

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// A program that is the first process of its container is treated by the kernel like no
// other: signals that it does not handle are dropped, its own included, and orphans pile
// up below it. So the first process is one of ours that does what is expected of such a
// process: it starts the program, passes on every signal, collects orphans, and when the
// program has ended writes how to a file, because an exit code alone cannot tell a signal
// from a code. It is a few hundred bytes of machine code and takes no memory to speak of.

// initProgram is the program as a file: the smallest header that the kernel takes, and
// the code.
func initProgram() []byte {
	const base, head = 0x400000, 64 + 56
	size := uint64(head + len(initCode))
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	for _, v := range []any{
		uint16(2), uint16(initMachine), uint32(1), uint64(base + head), uint64(64), uint64(0), uint32(0), // executable, entry, program headers
		uint16(64), uint16(56), uint16(1), uint16(64), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(4096), // one segment to be read and executed
	} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	b.Write(initCode)
	return b.Bytes()
}

// Kinds of records that it writes.
const (
	recordStatus  = 1 // a wait status
	recordRefused = 2 // the error number of execve
)

// verdict is what the first process wrote.
type verdict struct {
	known   bool
	status  syscall.WaitStatus
	refused syscall.Errno // the program could not be executed
}

func readVerdict(path string) (verdict, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return verdict{}, nil
	}
	if err != nil {
		return verdict{}, fmt.Errorf("how the unit ended: %w", err)
	}
	var v verdict
	for ; len(b) >= 8; b = b[8:] {
		value := binary.LittleEndian.Uint32(b[4:])
		switch binary.LittleEndian.Uint32(b) {
		case recordStatus:
			v.known, v.status = true, syscall.WaitStatus(value)
		case recordRefused:
			v.known, v.refused = true, syscall.Errno(value)
		}
	}
	return v, nil
}
