#pragma once

namespace anyfp8 {

// Asks Linux for tile registers, once, for every thread of the process; false where it refuses or there are
// none. From then on signal frames are larger by 8 KiB. Any thread may call it.
bool obtain_amx_tiles() noexcept;

}  // namespace anyfp8
