// Package sandbox keeps this process to its own files, with what the kernel has for that. There is no way back, and it
// holds for programs that the process would start, of which it can start none.
package sandbox

// Rules say what is left to the process.
type Rules struct {
	// Write are directories in which files are read, written, made, renamed and removed.
	Write []string
	// Read are directories and files that are read.
	Read []string
	// AbstractSockets leaves the connection to Unix sockets without a file. The session bus can be one; the screen is one too.
	AbstractSockets bool
}
