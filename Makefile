# bullpen: one binary, build/bullpen. `make help` lists the targets.
CC      ?= gcc
OUT     ?= build
MODE    ?= release
PREFIX  ?= /usr/local

PKGS    := lua5.4 lua5.4-cjson libcurl libmicrohttpd
CSTD    := -std=gnu11 -D_GNU_SOURCE
WARN    := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla
FLAGS_release := -O2 -g -DNDEBUG
FLAGS_asan    := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
FLAGS_tsan    := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
CFLAGS  += $(CSTD) $(WARN) $(FLAGS_$(MODE)) -Isrc -I$(OUT) $(shell pkg-config --cflags $(PKGS))
LDFLAGS += $(FLAGS_$(MODE)) -rdynamic
LDLIBS  += -L/usr/lib/$(shell $(CC) -print-multiarch) -Wl,-Bstatic -llua5.4-cjson -llua5.4 -Wl,-Bdynamic -lmicrohttpd -lcurl -lcrypto -lpthread -ldl -lm

LEAF    := $(sort $(wildcard src/base/*.c src/core/*.c))
ROOMS   := $(sort $(wildcard src/vm/*.c src/policy/*.c src/config/*.c src/proxy/*.c src/admin/*.c src/cli/*.c))
LUA     := $(sort $(wildcard lua/bullpen/*.lua lua/bullpen/*/*.lua lua/policies/*.lua))
LEAF_O  := $(LEAF:%.c=$(OUT)/%.o)
ROOMS_O := $(ROOMS:%.c=$(OUT)/%.o)
UNIT    := $(patsubst tests/unit/%.c,$(OUT)/unit/%,$(sort $(wildcard tests/unit/test_*.c)))

Q       := @
.PHONY: all test unit build-unit asan tsan fault fuzz speed style clean install help
.SECONDARY:

all: $(OUT)/bullpen

help:
	@echo 'all test unit asan tsan fault fuzz speed style clean install; MODE=release|asan|tsan, OUT=dir'

$(OUT)/bullpen: $(OUT)/src/main.o $(ROOMS_O) $(LEAF_O)
	@echo '  LD    $@'
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(OUT)/%.o: %.c
	@mkdir -p $(@D)
	@echo '  CC    $<'
	$(Q)$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

# The Lua files become one C table: name, bytes, length.
$(OUT)/embedded.inc: scripts/embed $(LUA)
	@mkdir -p $(@D)
	@echo '  LUA   $@'
	$(Q)scripts/embed $(LUA) > $@.tmp && mv $@.tmp $@

$(OUT)/src/vm/embedded.o: $(OUT)/embedded.inc

# Tests of pure rooms link base and core alone: what they need of the rest is a mistake.
$(OUT)/unit/%: tests/unit/%.c $(LEAF_O)
	@mkdir -p $(@D)
	@echo '  TEST  $@'
	$(Q)$(CC) $(CFLAGS) -UNDEBUG -MMD -MP $(LDFLAGS) -o $@ $< $(LEAF_O) $(UNIT_EXTRA) -lcmocka $(LDLIBS)

# Tests of rooms that need Lua.
$(OUT)/unit/test_config $(OUT)/unit/test_policy $(OUT)/unit/test_ready $(OUT)/unit/test_stubs $(OUT)/unit/test_vm: UNIT_EXTRA = $(ROOMS_O)
$(OUT)/unit/test_config $(OUT)/unit/test_policy $(OUT)/unit/test_ready $(OUT)/unit/test_stubs $(OUT)/unit/test_vm: $(ROOMS_O)

# What `scripts/speed` measures from within.
$(OUT)/speed/%: tests/speed/%.c $(ROOMS_O) $(LEAF_O)
	@mkdir -p $(@D)
	@echo '  SPEED $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(ROOMS_O) $(LEAF_O) $(LDLIBS)

build-unit: $(UNIT)

unit: build-unit
	@for t in $(UNIT); do echo "== $$t"; $$t || exit 1; done

test:
	./scripts/test

# The simulator of the engine (tests/sim/README.md).
$(OUT)/sim: $(sort $(wildcard tests/sim/*.c)) tests/sim/sim.h $(LEAF_O)
	@echo '  SIM   $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.c,$^) $(LEAF_O) -lpthread -lm

# Failing allocators (tests/fault/README.md): of single rooms, and one to preload into the whole binary.
WRAPPED := malloc calloc realloc aligned_alloc strdup strndup free arena_alloc arena_copy arena_printf
$(OUT)/fault/fault_%: tests/fault/fault_%.c tests/fault/fault_rig.h $(LEAF_O) $(ROOMS_O)
	@mkdir -p $(@D)
	@echo '  FAULT $@'
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) $(WRAPPED:%=-Wl,--wrap=%) -o $@ $< $(if $(findstring core,$*),,$(ROOMS_O)) $(LEAF_O) $(LDLIBS)

$(OUT)/fault/failmalloc.so: tests/fault/failmalloc.c
	@mkdir -p $(@D)
	$(Q)$(CC) $(CSTD) $(WARN) -O2 -g -shared -fPIC -o $@ $< -ldl

fault: all $(OUT)/fault/fault_core $(OUT)/fault/fault_policy $(OUT)/fault/failmalloc.so
	$(OUT)/fault/fault_core
	$(OUT)/fault/fault_policy
	node --test tests/fault/*.test.mjs

asan:
	+$(MAKE) MODE=asan OUT=$(OUT)/asan all

tsan:
	+$(MAKE) MODE=tsan OUT=$(OUT)/tsan all

# libFuzzer over the rooms that read what strangers send; seeds are the fixtures.
FUZZERS      := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
FUZZ_SECONDS ?= 60
$(OUT)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c $(LEAF) src/proxy/guard.c
	@mkdir -p $(@D)/$*-corpus
	@echo '  FUZZ  $@'
	$(Q)clang $(CSTD) -O1 -g -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Isrc -o $@ $< $(LEAF) src/proxy/guard.c -lpthread -lm

fuzz:
	./scripts/setup fuzz
	+$(MAKE) $(FUZZERS:%=$(OUT)/fuzz/%)
	@for f in $(FUZZERS); do echo "== $$f"; \
	  $(OUT)/fuzz/$$f -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -verbosity=0 -print_final_stats=1 -artifact_prefix=$(OUT)/fuzz/$$f- \
	    $(OUT)/fuzz/$${f#fuzz_}-corpus tests/fixtures/* || exit 1; done

style:
	./scripts/style

speed:
	./scripts/speed

install: all
	install -D -m 755 $(OUT)/bullpen $(DESTDIR)$(PREFIX)/bin/bullpen

clean:
	rm -rf build

-include $(LEAF_O:.o=.d) $(ROOMS_O:.o=.d) $(OUT)/src/main.d
