# list PATH: "file" and a line of stat; or "dir" and what is below, in batches of a count, that many lines of stat, and that
# many names that end in NUL, then "0"; or "absent". A batch "!" is one that could not be read.
LC_ALL=C
export LC_ALL
cd -- "$HOME" || die 'there is no home directory'
dec "$1"
if [ -d "$n" ]; then
	cd -- "$n" || die 'the directory cannot be entered'
	printf 'dir\n'
	find . -exec sh -c '
		s=$(stat -c "%f %s %y %z" -- "$@") || { printf "!\n"; exit 1; }
		printf "%s\n%s\n" "$#" "$s"
		printf "%s\0" "$@"' sh {} + || die 'not everything below can be read'
	printf '0\n'
elif [ -f "$n" ]; then
	[ -r "$n" ] || die 'the file cannot be read'
	s=$(stat -L -c '%f %s %y %z' -- "$n") || die 'the file cannot be read'
	printf 'file\n%s\n' "$s"
elif [ -e "$n" ] || [ -h "$n" ]; then
	die 'it is neither a file nor a directory'
else
	printf 'absent\n'
fi
