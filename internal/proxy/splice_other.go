//go:build !linux

package proxy

import (
	"os"
	"syscall"
)

func spliceToConn(syscall.Conn, *os.File) (handled bool, err error) { return false, nil }

func spliceFromConn(*os.File, syscall.Conn) (handled bool, err error) { return false, nil }
