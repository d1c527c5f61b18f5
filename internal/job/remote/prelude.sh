printf '\n%s\n' "$1"
shift
die() { printf '%s\n' "$1" >&2; exit 3; }
dec() { n=$(printf '%b.' "$1"); n=${n%.}; }
# living: whether the shell is that waits for the command of the run in this directory.
# The pid may be another process's by now, which began at another time. What is behind the last parenthesis is no name.
living() {
	{ read -r p t <pid; } 2>/dev/null && kill -0 "$p" 2>/dev/null || return 1
	x=$(cat "/proc/$p/stat" 2>/dev/null) || return 0
	set -- ${x##*) }
	[ "$1" != Z ] || return 1
	[ -z "$t" ] || [ -z "${20}" ] || [ "${20}" = "$t" ]
}
