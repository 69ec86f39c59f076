#!/usr/bin/env bash
# git on a mount: many small files, packs through mappings, replace-by-rename everywhere.
. "$(dirname "$0")/lib.sh"
m=$WORK/mnt/p
export HOME=$WORK GIT_CONFIG_NOSYSTEM=1

git_quiet() {
	git -c user.name=test -c user.email=test@localhost -c core.fsync=all -c init.defaultBranch=main "$@"
}

test_commit_many_files() {
	local i
	git_quiet init -q "$m/repo"
	for i in {1..20}; do
		mkdir -p "$m/repo/dir$i"
		(cd "$m/repo/dir$i" && for f in {1..25}; do echo "file $f of $i" >"$f"; done)
		git_quiet -C "$m/repo" add -A
		git_quiet -C "$m/repo" commit -q -m "commit $i"
	done
	git_quiet -C "$m/repo" fsck --strict
	expect_eq commits "$(git_quiet -C "$m/repo" rev-list --count HEAD)" 20
}

test_pack_and_clone() {
	git_quiet -C "$m/repo" gc -q
	git_quiet clone -q "file://$m/repo" "$m/clone"
	git_quiet -C "$m/clone" fsck --strict
	diff -r --exclude=.git "$m/repo" "$m/clone"
	expect_eq "status of the clone" "$(git_quiet -C "$m/clone" status --porcelain)" ""
}

test_there_after_a_kill_and_remount() {
	rpmemfs p sync "$m"
	fs_kill p
	fs_mount p
	git_quiet -C "$m/clone" fsck --strict
	expect_eq "status of the clone" "$(git_quiet -C "$m/clone" status --porcelain)" ""
}

prepare fs_make p 128M
run_tests
