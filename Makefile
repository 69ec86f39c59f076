# rpmemfs. `make help` lists the targets; read top to bottom: settings, packages, flags, files, rules, tests, install.

# ---------------------------------------------------------------- settings
PREFIX  ?= /usr/local
SAN     ?=
WERROR  ?=
V       ?=
BUILD   := build$(if $(SAN),/$(SAN))
CC      ?= gcc
Q       := $(if $(V),,@)

# ---------------------------------------------------------------- packages
PACKAGES := fuse3 libpmem libssh libisal libxxhash jansson uuid
define need_package
$(if $(shell pkg-config --exists $(1) && echo yes),,$(error the development package of $(1) is missing: run scripts/setup))
endef
ifeq ($(filter clean help,$(MAKECMDGOALS)),)
$(foreach p,$(PACKAGES) libfabric,$(call need_package,$(p)))
PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES) libfabric)
PKG_LIBS   := $(shell pkg-config --libs $(PACKAGES))
CRITERION_LIBS := $(if $(filter thread,$(SAN)),,$(shell pkg-config --libs criterion 2>/dev/null))
endif

# ---------------------------------------------------------------- flags
WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings \
            -Wvla -Wundef -Wformat=2 -Wimplicit-fallthrough $(if $(WERROR),-Werror)
SANFLAGS_address   := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
SANFLAGS_undefined := -fsanitize=undefined -fno-sanitize-recover=undefined
SANFLAGS_thread    := -fsanitize=thread
# Not a sanitizer, but a build of its own as they are; see the target coverage.
SANFLAGS_coverage  := -O0 --coverage -fprofile-update=atomic -include tests/support/coverage.h -Wno-format-truncation
SANFLAGS := $(SANFLAGS_$(SAN))
ALL_CFLAGS  = -std=gnu17 -O2 -g -fno-strict-aliasing -pthread -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DFUSE_USE_VERSION=314 \
              -Iinclude -I. $(WARNINGS) $(PKG_CFLAGS) $(SANFLAGS) $(CFLAGS)
ALL_LDFLAGS = -pthread $(SANFLAGS) $(LDFLAGS)
# Unit tests and explorer watch the persist layer and drop fences; programs carry no trace of that.
TEST_CFLAGS = -DPM_OBSERVE $(TEST_CFLAGS_$(SAN))
# Criterion does not start under ThreadSanitizer: a header of ours with its interface stands before it.
TEST_CFLAGS_thread := -Itests/support/tsan
# libfabric is not linked: rpmem/fabric.c loads it when replication is configured.
LIBS = $(PKG_LIBS) -ldl -lm

# ---------------------------------------------------------------- files
# What both ends link.
COMMON := rpmem/csum rpmem/errmsg rpmem/log rpmem/poolset rpmem/poolhdr rpmem/pool rpmem/pool_map rpmem/pool_lock rpmem/pool_huge rpmem/pool_ahead rpmem/pool_part rpmem/pmem rpmem/persist \
          rpmem/redo rpmem/replay rpmem/copy rpmem/copy_table rpmem/copy_open rpmem/copy_omf rpmem/codec rpmem/codec_lane rpmem/fabric rpmem/fabric_ep rpmem/fabric_io rpmem/fabric_wait
# The initiator.
RPMEM  := rpmem/target rpmem/spawn rpmem/ssh rpmem/channel rpmem/session rpmem/lane rpmem/lane_post rpmem/link rpmem/link_ops
# librpmem: its own files, and what it takes from the above.
LIBRPMEM_OWN := rpmem/librpmem rpmem/librpmem_ext rpmem/rpmem_env rpmem/rpool rpmem/rpool_session rpmem/rpool_lane rpmem/rpool_post
LIBRPMEM := $(LIBRPMEM_OWN) $(filter-out rpmem/link rpmem/link_ops,$(RPMEM)) rpmem/csum rpmem/errmsg rpmem/log \
            rpmem/codec rpmem/codec_lane rpmem/fabric rpmem/fabric_ep rpmem/fabric_io rpmem/fabric_wait
# The target.
ENGINE := rpmemd/engine rpmemd/engine_commit rpmemd/engine_sync
RPMEMD := rpmemd/config rpmemd/store $(ENGINE) rpmemd/served rpmemd/server rpmemd/lanes rpmemd/takeover rpmemd/incarnation rpmemd/method rpmemd/report
# The file system core and its front ends.
FSCORE := fs/block fs/fresh fs/alloc fs/op fs/commit fs/sync fs/stream fs/map fs/map_cut fs/itable fs/dir fs/dir_leaf fs/dir_node fs/namei fs/rename fs/attr fs/file_read fs/file_stage fs/file_write fs/orphan fs/recover fs/fs \
          fs/fsck fs/fsck_media fs/fsck_inodes fs/fsck_dir fs/fsck_repair
FSPROG := fs/policy fs/members fs/catchup fs/attach fs/pull fs/replication fs/replication_mkfs fs/restore fs/restore_look fs/restore_copy fs/warm fs/progress fs/verify fs/verify_ring fs/fuse_ops fs/fuse_dir fs/fuse_park fs/loop fs/status fs/cmd fs/cmd_admin fs/cmd_fsck fs/cmd_repair fs/cmd_mount fs/cmd_restore

# Criterion suites: tests/<name>.c
SUITES := common/test_csum common/test_errmsg common/test_log common/test_poolset common/test_poolhdr common/test_pool common/test_pool_huge common/test_pool_ahead common/test_persist \
          common/test_redo common/test_copy_omf common/test_copy common/test_copy_open common/test_replay common/test_replay_crash \
          common/test_codec \
          rpmem/test_target rpmem/test_fabric rpmem/test_lane rpmem/test_lane_train rpmem/test_link rpmem/test_nonsense rpmem/test_ssh rpmem/test_rpmem_env \
          rpmem/test_librpmem rpmem/test_librpmem_data rpmem/test_librpmem_loss rpmem/test_librpmem_wait rpmem/test_librpmem_so \
          rpmemd/test_config rpmemd/test_store rpmemd/test_hostile rpmemd/test_hostile_lane rpmemd/test_server rpmemd/test_engine rpmemd/test_engine_ring rpmemd/test_engine_plain rpmemd/test_train rpmemd/test_lanes rpmemd/test_incarnation rpmemd/test_method rpmemd/test_program \
          fs/test_map fs/test_dir fs/test_itable fs/test_fsck fs/test_fsck_repair fs/test_namei fs/test_file fs/test_recover fs/test_review fs/test_random fs/test_policy fs/test_attach fs/test_background fs/test_park fs/test_restore fs/test_warm fs/test_mkfs
# What fails once, and pools that mean harm.
SUITES += fs/test_faults rpmem/test_faults rpmem/test_faults_link rpmemd/test_faults fs/test_hostile fs/test_damage
SUPPORT := tests/support/core_rig tests/support/sim_link tests/support/copy_rig

PROGRAMS := $(BUILD)/rpmemfs $(BUILD)/rpmemd
LIBRARY_FILE := librpmem.so.1.0.0
LIBRARIES := $(BUILD)/$(LIBRARY_FILE) $(BUILD)/librpmem.a $(BUILD)/librpmem.pc

# ---------------------------------------------------------------- rules
.PHONY: all check suites system examples explore coverage fuzz fuzz-seeds bench lint cppcheck tidy install clean help format
all: $(PROGRAMS) $(LIBRARIES)

obj  = $(patsubst %,$(BUILD)/obj/%.o,$(1))
tobj = $(patsubst %,$(BUILD)/tobj/%.o,$(1))

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/tobj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC/t  $<")
	$(Q)$(CC) $(ALL_CFLAGS) $(TEST_CFLAGS) -MMD -MP -c -o $@ $<

$(BUILD)/rpmemfs: $(call obj,fs/main $(FSPROG) $(FSCORE) $(RPMEM) $(COMMON))
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

$(BUILD)/rpmemd: $(call obj,rpmemd/main $(RPMEMD) $(COMMON))
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# librpmem. Only what the version script names is visible; the static library is one object with the same names.
LIBRPMEM_LIBS = $(shell pkg-config --libs libssh libisal libxxhash) -ldl
pobj = $(patsubst %,$(BUILD)/pic/%.o,$(1))

$(BUILD)/pic/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC/p  $<")
	$(Q)$(CC) $(ALL_CFLAGS) -fPIC -fvisibility=hidden -MMD -MP -c -o $@ $<

# nodelete: libfabric's providers leave threads and handlers behind that must not lose their code by dlclose(3).
$(BUILD)/$(LIBRARY_FILE): $(call pobj,$(LIBRPMEM)) rpmem/librpmem.map
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -shared -Wl,-soname,librpmem.so.1 -Wl,--version-script=rpmem/librpmem.map -Wl,-z,nodelete \
		-Wl,--as-needed -o $@ $(filter %.o,$^) $(LIBRPMEM_LIBS)
	$(Q)ln -sf $(LIBRARY_FILE) $(BUILD)/librpmem.so.1
	$(Q)ln -sf librpmem.so.1 $(BUILD)/librpmem.so

$(BUILD)/librpmem.a: $(call pobj,$(LIBRPMEM)) rpmem/librpmem.map
	$(if $(Q),@echo "  AR    $@")
	$(Q)$(LD) -r -o $(BUILD)/pic/librpmem.o $(filter %.o,$^)
	$(Q)sed -n 's/^\t\t\(rpmem_[a-z_]*\);$$/\1/p' rpmem/librpmem.map >$(BUILD)/pic/librpmem.names
	$(Q)objcopy --keep-global-symbols=$(BUILD)/pic/librpmem.names $(BUILD)/pic/librpmem.o
	$(Q)rm -f $@ && ar rcs $@ $(BUILD)/pic/librpmem.o

$(BUILD)/librpmem.pc: rpmem/librpmem.pc.in Makefile
	@mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBS@|$(LIBRPMEM_LIBS) -lpthread|' $< >$@

# The examples see the public header and the shared library only.
EXAMPLES := $(addprefix $(BUILD)/examples/,01-replicate 02-batch 03-recover)
examples: $(EXAMPLES)

$(EXAMPLES): $(BUILD)/examples/%: $(BUILD)/obj/rpmem/examples/%.o $(BUILD)/$(LIBRARY_FILE)
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -Wl,-rpath,'$$ORIGIN/..'

# Everything but the mains, for the suites.
$(BUILD)/libtest.a: $(call tobj,$(FSPROG) $(FSCORE) $(RPMEM) $(LIBRPMEM_OWN) $(RPMEMD) $(COMMON) $(SUPPORT))
	$(if $(Q),@echo "  AR    $@")
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/tests/%: $(BUILD)/tobj/tests/%.o $(BUILD)/libtest.a
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) $(BUILD)/libtest.a $(LIBS) $(CRITERION_LIBS)

# The structures over blocks are tested over a block layer in memory, which stands before the real one.
$(addprefix $(BUILD)/tests/fs/,test_map test_dir test_itable): $(call tobj,tests/support/fake_block)

# Calls that fail once, for the suites of faults: each of these goes through tests/support/faults.c.
FAULT_WRAPS := malloc calloc realloc reallocarray aligned_alloc strdup posix_memalign vasprintf asprintf mmap64 munmap msync \
               open64 fstat64 stat64 statx ftruncate64 fallocate64 posix_fallocate64 pread64 lseek64 fsync unlink unlinkat flock \
               fstatfs64 socketpair pipe2 eventfd timerfd_create memfd_create epoll_create1 epoll_ctl opendir fopen64 syscall \
               posix_spawnp pthread_create send recv read write poll dlopen dlvsym spawn_open
FAULT_SUITES := $(addprefix $(BUILD)/tests/,fs/test_faults rpmem/test_faults rpmem/test_faults_link rpmemd/test_faults)
$(FAULT_SUITES): $(call tobj,tests/support/faults tests/support/fault_fabric tests/support/fault_rig)
$(FAULT_SUITES): ALL_LDFLAGS += $(FAULT_WRAPS:%=-Wl,--wrap=%)

# It runs the program.
$(BUILD)/tests/rpmemd/test_program: $(BUILD)/rpmemd

# They start rpmemd; the last one looks at the library as it is installed.
$(addprefix $(BUILD)/tests/rpmem/,test_librpmem test_librpmem_data test_librpmem_loss test_librpmem_wait): | $(BUILD)/rpmemd
$(BUILD)/tests/rpmem/test_librpmem_so: | $(BUILD)/rpmemd $(LIBRARIES)

.SECONDARY:

# ---------------------------------------------------------------- tests
suites: $(SUITES:%=$(BUILD)/tests/%)

# The system tests' helpers; tests/system/run BUILD needs them beside the programs.
system: all examples $(BUILD)/tests/system/fsio $(BUILD)/tests/system/objtx $(BUILD)/tests/system/poolhurt

$(BUILD)/tests/system/fsio: $(BUILD)/obj/tests/system/helpers/fsio.o
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^

$(BUILD)/tests/system/poolhurt: $(call obj,tests/system/helpers/poolhurt $(COMMON))
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# A program of somebody else: nothing of ours goes into it, no sanitizer either.
$(BUILD)/tests/system/objtx: tests/system/helpers/objtx.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC    $<")
	$(Q)$(CC) -std=gnu17 -O2 -g -pthread $(WARNINGS) $(CFLAGS) -o $@ $< $(shell pkg-config --cflags --libs libpmemobj)

# Under ThreadSanitizer everything takes many times longer. Sanitizers leave time enough for two suites at once.
CHECK_ENV_thread := CHECK_TIMEOUT=1800 CHECK_JOBS=2
CHECK_ENV_address := CHECK_JOBS=2 LSAN_OPTIONS=suppressions=$(CURDIR)/tests/support/lsan.supp:print_suppressions=0

check: all suites
	$(CHECK_ENV_$(SAN)) scripts/check $(BUILD) $(SUITES)

# ---------------------------------------------------------------- explore
EXPLORER := $(addprefix tests/explore/,explore jobs plants report minimise workload run session view model trace pages image known check cuts cluster cluster_link cluster_cuts cluster_rot takeover below) tests/support/sim_link
EXPLORED := $(addprefix fs/,policy members catchup attach pull replication replication_mkfs restore restore_look restore_copy warm progress)
EXPLORE_FLAGS = $(if $(filter full,$(EXPLORE)),--full --seconds 0,--seconds 80)

$(BUILD)/explore: $(call tobj,$(EXPLORER) $(EXPLORED) $(RPMEM) $(FSCORE) $(ENGINE) $(COMMON))
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# Without violations, and with each rule and fence left out in turn: a check that cannot fail is not a check.
explore: $(BUILD)/explore
	$(BUILD)/explore $(EXPLORE_FLAGS)
	$(BUILD)/explore --planted-all

# ---------------------------------------------------------------- coverage
# Which lines of fs/, rpmem/ and rpmemd/ the tests reach, as a table; some minutes, and everything only as root.
coverage:
	$(Q)command -v gcovr >/dev/null || { echo "gcovr is missing: run scripts/setup" >&2; exit 1; }
	$(Q)$(MAKE) SAN=coverage all suites system build/coverage/explore
	$(Q)FSCORE='$(FSCORE)' scripts/coverage build/coverage $(SUITES)

# ---------------------------------------------------------------- fuzz
# libFuzzer targets: tests/fuzz/fuzz_<name>.c over the parsers and whole pools, built by clang under ASan and UBSan. FUZZ_SECONDS each.
FUZZ := ctl lane poolset config redo poolhdr engine image
FUZZED := $(COMMON) rpmem/target rpmemd/config $(ENGINE)
FUZZ_SECONDS ?= 9
FUZZ_CC ?= clang
FUZZ_SAN := address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FUZZ_BINS := $(if $(filter fuzz%,$(MAKECMDGOALS)),$(if $(shell command -v $(FUZZ_CC)),$(FUZZ:%=$(BUILD)/fuzz/%)))
fobj = $(patsubst %,$(BUILD)/fuzz/obj/%.o,$(1))

$(BUILD)/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	$(if $(Q),@echo "  CC/f  $<")
	$(Q)$(FUZZ_CC) $(ALL_CFLAGS) -fsanitize=fuzzer-no-link,$(FUZZ_SAN) -MMD -MP -c -o $@ $<

$(FUZZ:%=$(BUILD)/fuzz/%): $(BUILD)/fuzz/%: $(call fobj,tests/fuzz/fuzz_%) $(call fobj,$(FUZZED))
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(FUZZ_CC) -fsanitize=fuzzer,$(FUZZ_SAN) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# Whole pools, under the core. Its input is choices: what they are compared with says nothing, and costs half of the time.
IMAGE_OBJS := $(call fobj,tests/fuzz/pools tests/fuzz/mutate $(FSCORE))
$(IMAGE_OBJS) $(call fobj,tests/fuzz/fuzz_image): FUZZ_SAN += -fno-sanitize-coverage=trace-cmp
$(BUILD)/fuzz/image: $(IMAGE_OBJS)

fuzz: $(FUZZ_BINS)
	$(Q)FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_CC=$(FUZZ_CC) tests/fuzz/run $(BUILD) $(FUZZ)

# The inputs they start from, written anew when a format has changed.
fuzz-seeds: $(BUILD)/fuzz/seeds
	@mkdir -p tests/fuzz/corpus
	$(BUILD)/fuzz/seeds tests/fuzz/corpus

$(BUILD)/fuzz/seeds: $(call obj,tests/fuzz/seeds $(COMMON))
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS)

# ---------------------------------------------------------------- bench
# The programs that stand beside the file system and the library as their limit (floor_fs, fabread, fabloop) share no code
# with them and link libfabric; those that measure use what they measure from outside.
BENCH := $(BUILD)/bench/floor_fs $(BUILD)/bench/fabread $(BUILD)/bench/fsbench $(BUILD)/bench/fabloop
BENCH_LIBS = $(shell pkg-config --libs fuse3 libfabric)

$(BUILD)/bench/floor_fs $(BUILD)/bench/fabread $(BUILD)/bench/fabloop: $(call obj,tests/bench/peer)
$(BUILD)/bench/fabloop $(BUILD)/bench/rpmembench: $(call obj,tests/bench/meter)
$(BENCH): $(BUILD)/bench/%: $(BUILD)/obj/tests/bench/%.o
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ $(BENCH_LIBS)

$(BUILD)/bench/rpmembench: $(call obj,tests/bench/rpmembench) $(BUILD)/$(LIBRARY_FILE)
	@mkdir -p $(@D)
	$(if $(Q),@echo "  LD    $@")
	$(Q)$(CC) $(ALL_LDFLAGS) -o $@ $^ -ldl -Wl,-rpath,'$$ORIGIN/..'

bench: all $(BENCH) $(BUILD)/bench/rpmembench
	tests/bench/run $(BUILD)
	tests/bench/run_rpmem $(BUILD)

# ---------------------------------------------------------------- lint
# cppcheck reads no system headers: what it must know of them is in scripts/cppcheck.cfg. clang-tidy: see .clang-tidy.
# readdir_r is what readdir(3) advises against.
CPPCHECK_FLAGS := -q --suppress=readdirCalled --enable=warning,performance,portability --inline-suppr --error-exitcode=1 --std=c11 --library=posix \
                  --library=scripts/cppcheck.cfg -D_GNU_SOURCE -DPM_OBSERVE -D__x86_64__ -Iinclude -I.

lint: cppcheck tidy

cppcheck:
	$(Q)cppcheck $(CPPCHECK_FLAGS) $$(git ls-files '*.c')

# A process a file; all are looked at, whatever the first ones show. On its stderr are counts of what was left out.
tidy:
	$(Q)command -v clang-tidy >/dev/null || { echo "clang-tidy is missing: run scripts/setup" >&2; exit 1; }
	$(Q)git ls-files '*.c' | xargs -P$$(nproc) -I{} clang-tidy --quiet {} -- $(ALL_CFLAGS) $(TEST_CFLAGS) 2>/dev/null

clean:
	rm -rf build

help:
	@echo "all       programs and librpmem into $(BUILD)/"
	@echo "check     every Criterion suite; SAN=address|undefined|thread for a sanitizer build"
	@echo "explore   crash-state exploration; EXPLORE=full for the long run"
	@echo "coverage  line coverage of all tests, by file; COVERAGE_EXPLORE=60 seconds of the explorer"
	@echo "fuzz      fuzzers over parsers and whole pools, FUZZ_SECONDS=9 each; needs clang"
	@echo "bench     benchmarks beside their limits, printed side by side"
	@echo "lint      cppcheck and clang-tidy over all sources; each is a target too"
	@echo "install   into DESTDIR/PREFIX ($(PREFIX))"
	@echo "format    clang-format over all sources"
	@echo "clean     removes build/"
	@echo "variables SAN= WERROR=1 V=1 CFLAGS= PREFIX= DESTDIR="

format:
	git ls-files '*.c' '*.h' | xargs clang-format -i

install: all
	install -d $(addprefix $(DESTDIR)$(PREFIX)/,bin lib/pkgconfig include share/man/man1 share/man/man3 share/man/man5 share/man/man7)
	install $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(BUILD)/$(LIBRARY_FILE) $(BUILD)/librpmem.a $(DESTDIR)$(PREFIX)/lib
	ln -sf $(LIBRARY_FILE) $(DESTDIR)$(PREFIX)/lib/librpmem.so.1
	ln -sf librpmem.so.1 $(DESTDIR)$(PREFIX)/lib/librpmem.so
	install -m 644 $(BUILD)/librpmem.pc $(DESTDIR)$(PREFIX)/lib/pkgconfig
	install -m 644 include/librpmem.h $(DESTDIR)$(PREFIX)/include
	install -m 644 fs/rpmemfs.1 rpmemd/rpmemd.1 $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 $(wildcard rpmem/*.3) $(DESTDIR)$(PREFIX)/share/man/man3
	for page in rpmem/*.3; do \
		sed -n '/^\.SH NAME/,/^\.SH SYNOPSIS/{/^rpmem_/{s/ \\-.*//;s/,$$//;s/, */\n/g;p}}' $$page | while read name; do \
			[ "$$name.3" = "$${page##*/}" ] || ln -sf "$${page##*/}" "$(DESTDIR)$(PREFIX)/share/man/man3/$$name.3"; \
		done; done
	install -m 644 $(wildcard rpmem/*.5) $(DESTDIR)$(PREFIX)/share/man/man5
	install -m 644 $(wildcard rpmem/*.7) $(DESTDIR)$(PREFIX)/share/man/man7

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
