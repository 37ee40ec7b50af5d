# Makes cuda.so, a kernel pack of tvmops, from the sources here: make -j8 [TARGETS="sm_80 sm_90a"] [NVCC=nvcc] [CC=cc]
# It takes nvcc and a C compiler. tvmops.load_pack("cuda.so") or TVMOPS_PACK_PATH=cuda.so loads it.
NVCC ?= nvcc
LIBRARY ?= cuda.so

# What kernels there are: KNOWN, the targets; KERNELS_{target}, the sources; FLAGS, nvcc's options.
include kernels.mk
TARGETS ?= $(KNOWN)

ifneq ($(filter-out $(KNOWN),$(TARGETS)),)
$(error no kernels for $(filter-out $(KNOWN),$(TARGETS)) here, only for $(KNOWN))
endif
# The toolkit's folder, also where nvcc is a script that calls another.
TOP := $(shell $(NVCC) -dryrun -x cu -c /dev/null -o /dev/null 2>&1 | sed -n 's/^.. TOP=//p')
ifeq ($(TOP),)
$(error $(NVCC) does not run, or is no nvcc: name one by NVCC=...)
endif
CUDART := $(firstword $(wildcard $(TOP)/lib64/libcudart_static.a $(TOP)/lib/libcudart_static.a \
  $(TOP)/targets/*/lib/libcudart_static.a))
ifeq ($(CUDART),)
$(error the CUDA toolkit in $(TOP) has no libcudart_static.a)
endif

OBJECTS := $(foreach target,$(TARGETS),$(KERNELS_$(target):.cu=.o)) pack_device.o
CHOSEN := $(foreach target,$(TARGETS),-DTVMOPS_WITH_$(target))
# A file whose name says which targets the library holds, so that asking for others makes it again.
empty :=
MADE := .made-for-$(subst $(empty) $(empty),-,$(strip $(TARGETS)))

.DEFAULT_GOAL := $(LIBRARY)
.DELETE_ON_ERROR:
.PHONY: clean

$(LIBRARY): $(OBJECTS) pack.c pack.map abi.h $(MADE)
	$(CC) -O1 -shared -fPIC -Wl,--version-script=pack.map $(CHOSEN) -o $@.tmp pack.c $(OBJECTS) $(CUDART) \
	  -lpthread -ldl -lrt
	mv $@.tmp $@

$(MADE):
	rm -f .made-for-*
	touch $@

# $(call compiled,OBJECTS,TARGET): how objects are made from sources beside them.
define compiled
$(1): %.o: %.cu abi.h
	$$(NVCC) $$(FLAGS) -I. -gencode=arch=compute_$(patsubst sm_%,%,$(2)),code=$(2) -c $$< -o $$@
endef
$(foreach target,$(TARGETS),$(eval $(call compiled,$(KERNELS_$(target):.cu=.o),$(target))))
$(eval $(call compiled,pack_device.o,$(firstword $(TARGETS))))

clean:
	rm -f *.o .made-for-* $(LIBRARY)
