printf '\n%s\n' "$1"
shift
die() { printf '%s\n' "$1" >&2; exit 3; }
dec() { n=$(printf '%b.' "$1"); n=${n%.}; }
