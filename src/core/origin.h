/*
 * The rule for a listener without a key (contract section 8): web pages must not drive a local service. A page's requests name another
 * origin, or reach it under a name of the page's own (DNS rebinding): neither is served.
 */
#pragma once

#include "base/span.h"

/* A Host header's value that is a loopback name or an address, with or without a port. */
bool origin_host_is_local(struct span host);

/* An Origin header's value that is that Host itself. "null" is not. */
bool origin_is_own(struct span origin, struct span host);
