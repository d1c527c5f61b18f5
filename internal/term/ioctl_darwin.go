package term

import "golang.org/x/sys/unix"

// flushTermios also discards unread input.
const (
	getTermios   = unix.TIOCGETA
	setTermios   = unix.TIOCSETA
	flushTermios = unix.TIOCSETAF
)
