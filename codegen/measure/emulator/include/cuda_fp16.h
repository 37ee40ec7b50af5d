// All of it is in device.h, which comes first.
#pragma once
