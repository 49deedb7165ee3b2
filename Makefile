# The front door. Each target installs what is missing from Debian, says what it does, and works
# on a fresh Debian 12. `make help` lists them.
m ?=
B := build$(if $(m),-$(m))
SETUP_asan := -Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized
SETUP_tsan := -Db_sanitize=thread -Db_lundef=false -Dbuildtype=debugoptimized
SETUP_cov  := -Db_coverage=true -Dbuildtype=debugoptimized
SETUP_fuzz := -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false

all: build
build: $(B)/build.ninja
	@ninja -C $(B) --quiet

$(B)/build.ninja:
	@scripts/install-deps build
	@echo "Configuring $(B)"
	@meson setup $(B) $(SETUP_$(m)) >/dev/null

.PHONY: all build
