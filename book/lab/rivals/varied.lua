-- For wrk: each request asks for another path, so that no two are the same bytes.
local number = 0

request = function()
   number = number + 1
   return wrk.format("GET", "/" .. number)
end
