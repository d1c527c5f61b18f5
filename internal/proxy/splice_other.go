//go:build !linux

package proxy

import (
	"net"
	"os"
)

func spliceToConn(*net.TCPConn, *os.File) (handled bool, err error) { return false, nil }

func spliceFromConn(*os.File, *net.TCPConn) (handled bool, err error) { return false, nil }
