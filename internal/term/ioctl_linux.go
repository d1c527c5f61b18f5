package term

import "golang.org/x/sys/unix"

// flushTermios also discards unread input.
const (
	getTermios   = unix.TCGETS
	setTermios   = unix.TCSETS
	flushTermios = unix.TCSETSF
)
