# probe ID NEW: what there is to work with. NEW is 1 to make the directory of the run.
LC_ALL=C
export LC_ALL
umask 077
[ -n "$HOME" ] && cd -- "$HOME" || die 'there is no home directory'
missing=
works() { [ "$2" = "$3" ] || missing="$missing $1"; }
works find "$(find . -prune -exec sh -c 'echo $#' sh {} + 2>/dev/null)" 1
works dd "$(printf abcdef | dd ibs=3 obs=4096 count=1 iflag=fullblock conv=notrunc 2>/dev/null)" abc
works head "$(printf abc | head -c 2 2>/dev/null)" ab
case "$(stat -c '%f %s %y %z' -- / 2>/dev/null)" in 4*' '*' '*) ;; *) missing="$missing stat" ;; esac
for t in cat chmod mkdir mv rm rmdir sleep; do
	command -v "$t" >/dev/null 2>&1 || missing="$missing $t"
done
i=0 hash=-
for t in sha256sum 'busybox sha256sum' 'openssl dgst -sha256 -r' 'shasum -a 256'; do
	x=$(printf abc | $t 2>/dev/null)
	if [ "${x%% *}" = ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad ]; then
		hash=$i
		break
	fi
	i=$((i + 1))
done
nap=1
sleep 0.2 2>/dev/null && nap=0.2
setsid=0
setsid true </dev/null >/dev/null 2>&1 && setsid=1
if [ "$2" = 1 ]; then
	[ ! -h .vast-ssh-run ] || die '.vast-ssh-run is a symbolic link'
	mkdir -p ".vast-ssh-run/$1" && chmod 700 .vast-ssh-run ".vast-ssh-run/$1" || die 'the directory of the run cannot be made'
fi
printf 'hash %s\nnap %s\nsetsid %s\nmissing%s\nend\n' "$hash" "$nap" "$setsid" "$missing"
